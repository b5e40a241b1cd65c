package upload

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"leafcutter/ingest-api/internal/problem"
)

// Spool is the room on disk in which uploads wait until they are whole: S3 needs a length before the first byte, and a
// form may have fields after its file. It bounds how many uploads are received at once and how many bytes they may hold
// together, so that neither memory nor disk follows the number of clients.
type Spool struct {
	dir     string
	limit   int64
	wait    time.Duration
	slots   chan struct{}
	buffers sync.Pool

	mu   sync.Mutex
	used int64
}

// Buffer is the size in bytes of the buffers by which uploads and objects are copied.
const Buffer = 32 << 10

// reserveStep is by how many bytes a file of unknown length grows its share of the room.
const reserveStep = 1 << 20

// NewSpool makes a spool in dir, which must exist, of at most limit bytes and slots uploads at once. An upload that
// finds all slots taken waits for one as long as wait.
func NewSpool(dir string, limit int64, slots int, wait time.Duration) (*Spool, error) {
	s := &Spool{dir: dir, limit: limit, wait: wait, slots: make(chan struct{}, slots)}
	s.buffers.New = func() any { b := make([]byte, Buffer); return &b }
	f, err := s.NewFile(0) // tells at the start, not at the first upload, that the folder cannot be written
	if err != nil {
		return nil, fmt.Errorf("LEAFCUTTER_SPOOL_DIR: %w", err)
	}
	return s, f.Close()
}

// Enter takes a slot. The caller calls leave once, when it needs the slot no more.
func (s *Spool) Enter(ctx context.Context) (leave func(), err error) {
	select {
	case s.slots <- struct{}{}:
		return s.leave, nil
	default:
	}
	timer := time.NewTimer(s.wait)
	defer timer.Stop()
	select {
	case s.slots <- struct{}{}:
		return s.leave, nil
	case <-timer.C:
		return nil, problem.New(problem.Busy, "%d uploads are being received", cap(s.slots))
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *Spool) leave() { <-s.slots }

// Used is how many bytes of the room are taken or promised.
func (s *Spool) Used() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

// Receiving is how many slots are taken.
func (s *Spool) Receiving() int { return len(s.slots) }

func (s *Spool) reserve(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used+n > s.limit {
		return problem.New(problem.SpoolFull, "Uploads under way hold all of %d bytes", s.limit)
	}
	s.used += n
	return nil
}

func (s *Spool) release(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= n
}

// buffer lends a buffer of Buffer bytes until done is called.
func (s *Spool) buffer() (buf []byte, done func()) {
	b := s.buffers.Get().(*[]byte)
	return *b, func() { s.buffers.Put(b) }
}

// File is an upload on disk: written once, hashed on the way, then read from its start as often as needed. It has no
// name any more, so that a process that dies leaves nothing behind.
type File struct {
	spool    *Spool
	file     *os.File
	hash     hash.Hash
	size     int64
	reserved int64
}

// NewFile opens an empty file and promises it expect bytes of the room; 0 where the length is not known.
func (s *Spool) NewFile(expect int64) (*File, error) {
	if err := s.reserve(expect); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(s.dir, "upload-*")
	if err != nil {
		s.release(expect)
		return nil, diskFault("make a spool file", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		s.release(expect)
		_ = f.Close() // the first fault is the one to tell
		return nil, diskFault("unlink a spool file", err)
	}
	return &File{spool: s, file: f, hash: sha256.New(), reserved: expect}, nil
}

// Write appends p.
func (f *File) Write(p []byte) (int, error) {
	if grow := f.size + int64(len(p)) - f.reserved; grow > 0 {
		grow = (grow + reserveStep - 1) / reserveStep * reserveStep
		if err := f.spool.reserve(grow); err != nil {
			return 0, err
		}
		f.reserved += grow
	}
	n, err := f.file.Write(p)
	f.size += int64(n)
	f.hash.Write(p[:n])
	if err != nil {
		return n, diskFault("write a spool file", err)
	}
	return n, nil
}

// Size is how many bytes were written.
func (f *File) Size() int64 { return f.size }

// SHA256 is the hexadecimal digest of what was written.
func (f *File) SHA256() string { return hex.EncodeToString(f.hash.Sum(nil)) }

// Reader reads the file from its start. There is one reader at a time.
func (f *File) Reader() (io.ReadSeeker, error) {
	if _, err := f.file.Seek(0, io.SeekStart); err != nil {
		return nil, diskFault("rewind a spool file", err)
	}
	return f.file, nil
}

// Close gives the disk and the room back. Twice is legal.
func (f *File) Close() error {
	if f.file == nil {
		return nil
	}
	f.spool.release(f.reserved)
	err := f.file.Close()
	f.file = nil
	if err != nil {
		return fmt.Errorf("close a spool file: %w", err)
	}
	return nil
}

// diskFault is a full disk as a full spool, and anything else as a fault of the server.
func diskFault(doing string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return problem.Because(err, problem.SpoolFull, "The disk for uploads is full")
	}
	return fmt.Errorf("%s: %w", doing, err)
}
