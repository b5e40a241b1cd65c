package kafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/bits"
	"runtime"
	"sync"
	"weak"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kgo"
)

// unfolder is the decompressor of one client. What a batch unfolds to is never allocated before it is known to be within
// bounds: a small batch is unfolded into a buffer that is used again, and copied; a large one is unfolded twice, once
// through that buffer only to count it, and once into memory of just its size. So a batch of a few kB that would be
// gigabytes costs the buffer, and for zstd the window that it names, and nothing that the collector has to find.
//
// Of one client a single large batch is unfolded at a time, however many brokers answer at once. What all of them take
// together is bounded by room.
type unfolder struct {
	room    *room
	most    int          // bytes that a batch may unfold to
	memory  zstd.DOption // that bounds a decoder's by most
	window  byte         // descriptor of the widest window of zstd that such a batch can make use of
	large   sync.Mutex   // held while a batch is unfolded that is larger than scratchBytes
	scratch sync.Pool    // of *[scratchBytes]byte
	gzips   sync.Pool    // of *gzipStream
	lz4s    sync.Pool    // of *lz4Stream
	blocks  sync.Pool    // of *zstd.Decoder, for what fits into a given buffer: that is the window

	// For large batches of zstd, under large: it keeps a window, which may be gone at the next collection. A pool would keep
	// one for each processor.
	zstd weak.Pointer[zstdStream]
}

const (
	// scratchBytes is more than what a producer with Kafka's defaults puts into a batch, 16 kB, or is allowed to, 1 MB.
	scratchBytes = 1 << 20

	// widestLog is the largest window of a zstd frame, as its logarithm: that of level 22, and what Kafka's own consumer takes.
	widestLog = 27
)

// newUnfolder makes a decompressor for batches that unfold to at most so many bytes, and take as much room as there is.
func newUnfolder(most int, room *room) *unfolder {
	// An eighth is added for the block in which the bound is passed, at most 128 KiB: its matches reach as far back as it is long.
	log := bits.Len(uint(max(most, scratchBytes) - 1))
	memory := zstd.WithDecoderMaxMemory(1<<log + 1<<(log-3))
	return &unfolder{
		room:    room,
		most:    most,
		window:  windowDescriptor(log, 1),
		scratch: sync.Pool{New: func() any { return new([scratchBytes]byte) }},
		gzips:   sync.Pool{New: func() any { return new(gzipStream) }},
		lz4s:    sync.Pool{New: func() any { return &lz4Stream{Reader: lz4.NewReader(nil)} }},
		memory:  memory,
		blocks:  sync.Pool{New: func() any { return zstdDecoder(memory, zstd.WithDecodeAllCapLimit(true)) }},
	}
}

// Decompress unfolds the records of one batch. A batch that unfolds to more than the bound is a kgo.ErrMaxDecompress, one
// for which there is no room now an errNotNow. It is called by several goroutines of a client at once; src is not kept.
func (u *unfolder) Decompress(src []byte, codec kgo.CompressionCodecType) ([]byte, error) {
	switch codec {
	case kgo.CodecNone:
		return src, nil
	case kgo.CodecSnappy:
		return u.unsnap(src)
	case kgo.CodecGzip:
		s := u.gzips.Get().(*gzipStream)
		defer u.gzips.Put(s)
		defer s.src.Reset(nil)
		return u.unfold(src, s)
	case kgo.CodecLz4:
		s := u.lz4s.Get().(*lz4Stream)
		defer u.lz4s.Put(s)
		defer s.src.Reset(nil)
		return u.unfold(src, s)
	case kgo.CodecZstd:
		return u.unzstd(src)
	default:
		return nil, fmt.Errorf("unknown compression codec %d", codec)
	}
}

// stream is a decoder that is used again.
type stream interface {
	io.Reader
	restart(src []byte) error
}

type gzipStream struct {
	gzip.Reader
	src bytes.Reader
}

func (s *gzipStream) restart(src []byte) error {
	s.src.Reset(src)
	return s.Reader.Reset(&s.src)
}

type lz4Stream struct {
	*lz4.Reader
	src bytes.Reader
}

func (s *lz4Stream) restart(src []byte) error {
	s.src.Reset(src)
	s.Reader.Reset(&s.src)
	return nil
}

type zstdStream struct {
	*zstd.Decoder
	src bytes.Reader
}

func (s *zstdStream) restart(src []byte) error {
	s.src.Reset(src)
	return s.Decoder.Reset(&s.src)
}

// zstdDecoder is one that starts no goroutine.
func zstdDecoder(opts ...zstd.DOption) *zstd.Decoder {
	d, err := zstd.NewReader(nil, append(opts, zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(1))...)
	if err != nil {
		panic(err) // of constants that it does not take
	}
	return d
}

func (u *unfolder) unfold(src []byte, s stream) ([]byte, error) {
	buf := u.scratch.Get().(*[scratchBytes]byte)
	defer u.scratch.Put(buf)
	if err := s.restart(src); err != nil {
		return nil, err
	}
	small := buf[:min(scratchBytes, u.most)]
	n, ended, err := fill(s, small)
	if err != nil {
		return nil, err
	}
	if ended {
		return u.copy(small[:n])
	}
	u.large.Lock()
	defer u.large.Unlock()
	return u.unfoldLarge(src, s, buf[:])
}

// unfoldLarge unfolds twice: to count, through buf, and then into memory of that size.
func (u *unfolder) unfoldLarge(src []byte, s stream, buf []byte) ([]byte, error) {
	if err := s.restart(src); err != nil {
		return nil, err
	}
	size := 0
	for ended := false; !ended; {
		n, end, err := fill(s, buf[:min(len(buf), u.most+1-size)])
		if err != nil {
			return nil, err
		}
		if size, ended = size+n, end; size > u.most {
			return nil, kgo.ErrMaxDecompress
		}
	}
	if err := s.restart(src); err != nil {
		return nil, err
	}
	return u.make(size, func(whole []byte) error {
		_, _, err := fill(s, whole)
		return err
	})
}

func (u *unfolder) copy(unfolded []byte) ([]byte, error) {
	return u.make(len(unfolded), func(whole []byte) error {
		copy(whole, unfolded)
		return nil
	})
}

// make takes room for a batch of a size before there is memory for it, and for its records before the client makes those.
func (u *unfolder) make(size int, fill func(whole []byte) error) ([]byte, error) {
	if err := u.room.take(size); err != nil {
		return nil, err
	}
	whole := make([]byte, size, max(size, 16)) // whose end is heard of: smaller ones share their memory with others
	if err := fill(whole); err != nil {
		u.room.give(size)
		return nil, err
	}
	records := weigh(whole)
	if records > u.most {
		u.room.give(size)
		return nil, kgo.ErrMaxDecompress
	}
	if err := u.room.take(records); err != nil {
		u.room.give(size)
		return nil, err
	}
	runtime.AddCleanup(&whole[:1][0], u.room.give, size+records)
	return whole, nil
}

// fill reads until buf is full or the stream has ended, and says which. A stream that ends with buf is found to have ended by
// the next call.
func fill(s io.Reader, buf []byte) (n int, ended bool, err error) {
	for idle := 0; n < len(buf); {
		m, err := s.Read(buf[n:])
		n += m
		switch {
		case err == io.EOF:
			return n, true, nil
		case err != nil:
			return n, false, err
		case m > 0:
			idle = 0
		default:
			if idle++; idle == 100 {
				return n, false, io.ErrNoProgress
			}
		}
	}
	return n, false, nil
}

func (u *unfolder) unzstd(src []byte) ([]byte, error) {
	src = u.narrow(src)
	buf := u.scratch.Get().(*[scratchBytes]byte)
	defer u.scratch.Put(buf)
	d := u.blocks.Get().(*zstd.Decoder)
	defer u.blocks.Put(d)
	out, err := d.DecodeAll(src, buf[:0:min(scratchBytes, u.most)])
	if err == nil {
		return u.copy(out)
	}
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		u.large.Lock()
		defer u.large.Unlock()
		s := u.zstd.Value()
		if s == nil {
			s = &zstdStream{Decoder: zstdDecoder(u.memory)}
			u.zstd = weak.Make(s)
		}
		defer s.src.Reset(nil)
		if out, err = u.unfoldLarge(src, s, buf[:]); err == nil {
			return out, nil
		}
	}
	// Both are said before anything is allocated. No producer writes a second frame with such a window; it is refused like the
	// rest, so that nobody can stop a partition by it.
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, zstd.ErrWindowSizeExceeded) {
		return nil, fmt.Errorf("%w: %w", kgo.ErrMaxDecompress, err)
	}
	return nil, err
}

// narrow gives src with a window no wider than a batch may be, where it names one that is: levels from 20 on name 64 and 128 MiB
// whatever they compress, and the decoder would make room for all of it, or refuse. What is never unfolded needs no window.
func (u *unfolder) narrow(src []byte) []byte {
	const singleSegment = 1 << 5 // of the frame's descriptor, byte 4: byte 5 is no window's descriptor
	if len(src) < 6 || binary.LittleEndian.Uint32(src) != 0xFD2FB528 || src[4]&singleSegment != 0 ||
		src[5] <= u.window || src[5] > windowDescriptor(widestLog, 0) {
		return src
	}
	src = bytes.Clone(src)
	src[5] = u.window
	return src
}

// windowDescriptor is how a zstd frame says that its window is a power of two and so many eighths of that (RFC 8878, 3.1.1.1.2).
func windowDescriptor(log, eighths int) byte { return byte((log-10)<<3 | eighths) }

// xerial is how the framing begins that Java's snappy streams have: then come a version and the oldest that can read it, four
// bytes each, and blocks, each behind its length.
var xerial = []byte{130, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

const xerialHeader = 16

// unsnap unfolds snappy, as one block or as Java frames it. Each block says what it unfolds to, and is an error if that is not
// so; no three bytes of it make more than 64, so that a lie costs no memory either.
func (u *unfolder) unsnap(src []byte) ([]byte, error) {
	size := 0
	for b, err := range snappyBlocks(src) {
		if err != nil {
			return nil, err
		}
		n, err := s2.DecodedLen(b)
		if err != nil {
			return nil, err
		}
		if n > u.most-size {
			return nil, kgo.ErrMaxDecompress
		}
		if n > 22*len(b) {
			return nil, s2.ErrCorrupt
		}
		size += n
	}
	if size > scratchBytes {
		u.large.Lock()
		defer u.large.Unlock()
	}
	return u.make(size, func(whole []byte) error {
		at := 0
		for b, err := range snappyBlocks(src) {
			if err != nil {
				return err
			}
			// What has room for the block is unfolded into.
			out, err := s2.Decode(whole[at:], b)
			if err != nil {
				return err
			}
			at += len(out)
		}
		return nil
	})
}

func snappyBlocks(src []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if len(src) <= xerialHeader || !bytes.HasPrefix(src, xerial) {
			yield(src, nil)
			return
		}
		for left := src[xerialHeader:]; len(left) > 0; {
			if len(left) < 4 || uint64(binary.BigEndian.Uint32(left)) > uint64(len(left)-4) {
				yield(nil, errors.New("malformed framing of snappy"))
				return
			}
			n := 4 + int(binary.BigEndian.Uint32(left))
			if !yield(left[4:n], nil) {
				return
			}
			left = left[n:]
		}
	}
}
