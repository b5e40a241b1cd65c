package objects

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/s3err"
)

// attributes keeps what S3 knows of an object beside its bytes: one file for each object, in a tree like that of the
// objects, so that a renamed folder takes all below it along. It is the gateway's meta.MetadataStorer.
//
// A file is a list that only grows: each line names an attribute and its value, or after a minus one that was deleted; the
// last line on a name holds. So an attribute costs one small write, and an object one inode beside its own. The gateway's
// own store takes five for an object, each file made under another name and renamed, and finding free inodes on ext4 was
// more than half of what the gateway did. A write that was broken off leaves a line without its closing quote, which
// counts for nothing; a file that has grown past maxGrown is written anew.
//
// All changes come through this process, which has locked the folder.
type attributes struct {
	dir  string
	mu   sync.RWMutex // for writing while a file is written anew or removed: an append after it was read would be lost
	last remembered
}

// maxGrown is the size in bytes from which a file is written anew with only what holds. Twenty puts of an object reach it.
const maxGrown = 8 << 10

// deleted begins a line that takes an attribute away.
const deleted = "-"

// ending marks files, so that an object may be named like the folder of others.
const ending = ".attributes"

// path is the file of an object's attributes, or of a bucket's where object is empty.
func (a *attributes) path(bucket, object string) string { return a.folder(bucket, object) + ending }

// folder is where the attributes of all that lies below an object's name are. A name that could be a file's gets one
// more ending, and so does one that has got some already: no two names meet.
func (a *attributes) folder(bucket, object string) string {
	parts := strings.Split(filepath.Join(bucket, object), string(filepath.Separator))
	for i, part := range parts {
		const more = ".folder"
		bare := part
		for strings.HasSuffix(bare, more) {
			bare = strings.TrimSuffix(bare, more)
		}
		if strings.HasSuffix(bare, ending) {
			parts[i] = part + more
		}
	}
	return filepath.Join(a.dir, filepath.Join(parts...))
}

// RetrieveAttribute gives the value of an attribute, or meta.ErrNoSuchKey.
func (a *attributes) RetrieveAttribute(_ *os.File, bucket, object, attribute string) ([]byte, error) {
	all, err := a.values(a.path(bucket, object))
	if err != nil {
		return nil, err
	}
	value, found := all[attribute]
	if !found {
		return nil, meta.ErrNoSuchKey
	}
	return bytes.Clone(value), nil
}

// StoreAttribute sets an attribute.
func (a *attributes) StoreAttribute(_ *os.File, bucket, object, attribute string, value []byte) error {
	return a.add(a.path(bucket, object), line(attribute, value))
}

// DeleteAttribute removes an attribute, and gives meta.ErrNoSuchKey where there is none.
func (a *attributes) DeleteAttribute(bucket, object, attribute string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	file := a.path(bucket, object)
	all, err := a.values(file)
	if err != nil {
		return err
	}
	if _, found := all[attribute]; !found {
		return meta.ErrNoSuchKey
	}
	if len(all) == 1 {
		return a.remove(bucket, object)
	}
	_, err = a.write(file, "\n"+deleted+strconv.Quote(attribute)) // the next attribute that is set shortens it
	return full(err)
}

// ListAttributes gives the names of an object's attributes.
func (a *attributes) ListAttributes(bucket, object string) ([]string, error) {
	all, err := a.values(a.path(bucket, object))
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// DeleteAttributes removes all of an object's attributes; of a bucket, those of its objects as well.
func (a *attributes) DeleteAttributes(bucket, object string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.remove(bucket, object); err != nil || object != "" {
		return err
	}
	defer a.last.forgetAll()
	if err := os.RemoveAll(a.folder(bucket, "")); err != nil {
		return fmt.Errorf("remove attributes: %w", err)
	}
	return nil
}

// RenameObject moves what is known of an object and of all below its name.
func (a *attributes) RenameObject(bucket, oldObject, newObject string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer a.last.forgetAll()
	if err := os.MkdirAll(filepath.Dir(a.path(bucket, newObject)), 0o700); err != nil {
		return full(fmt.Errorf("rename attributes: %w", err))
	}
	for _, where := range []func(string, string) string{a.path, a.folder} {
		err := os.Rename(where(bucket, oldObject), where(bucket, newObject))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // nothing is known of it
			return fmt.Errorf("rename attributes: %w", err)
		}
	}
	return nil
}

// add appends a line to a file.
func (a *attributes) add(file, line string) error {
	a.mu.RLock()
	size, err := a.write(file, line)
	a.mu.RUnlock()
	if err == nil && size > maxGrown {
		err = a.shorten(file)
	}
	return full(err)
}

// write appends a line to a file and gives its size. The caller holds the lock, for reading at least.
func (a *attributes) write(file, line string) (size int64, err error) {
	defer a.last.forget(file)
	f, err := appending(file)
	if errors.Is(err, fs.ErrNotExist) { // the first below this folder
		if err = os.MkdirAll(filepath.Dir(file), 0o700); err == nil {
			f, err = appending(file)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("write attributes: %w", err)
	}
	_, err = f.WriteString(line)
	info, asked := f.Stat()
	if err = errors.Join(err, asked, f.Close()); err != nil {
		return 0, fmt.Errorf("write attributes: %w", err)
	}
	return info.Size(), nil
}

func appending(file string) (*os.File, error) {
	return os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// shorten writes a file anew. It says what it said, so that what is remembered of it holds.
func (a *attributes) shorten(file string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	all, err := read(file)
	if err != nil {
		return err
	}
	var b strings.Builder
	for name, value := range all {
		b.WriteString(line(name, value))
	}
	short := filepath.Join(a.dir, ".new") // no bucket's name begins with a dot, and only one file is shortened at a time
	if err := os.WriteFile(short, []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("shorten attributes: %w", err)
	}
	if err := os.Rename(short, file); err != nil {
		return fmt.Errorf("shorten attributes: %w", err)
	}
	return nil
}

// remove removes an object's file, and the folders above it that it leaves empty. The caller holds the lock for writing.
func (a *attributes) remove(bucket, object string) error {
	file := a.path(bucket, object)
	defer a.last.forget(file)
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove attributes: %w", err)
	}
	for dir := filepath.Dir(file); len(dir) > len(a.dir); dir = filepath.Dir(dir) {
		if os.Remove(dir) != nil {
			break // others are in it
		}
	}
	return nil
}

// values gives what a file says, which the caller must not change.
func (a *attributes) values(file string) (map[string][]byte, error) {
	all, found, changes := a.last.of(file)
	if found {
		return all, nil
	}
	all, err := read(file)
	if err == nil {
		a.last.keep(file, all, changes)
	}
	return all, err
}

// read gives what a file says; that of an absent one is empty.
func read(file string) (map[string][]byte, error) {
	content, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		return nil, fmt.Errorf("read attributes: %w", err)
	}
	all := map[string][]byte{}
	for l := range bytes.Lines(content) {
		text, gone := strings.CutPrefix(strings.TrimSuffix(string(l), "\n"), deleted)
		first, err := strconv.QuotedPrefix(text)
		if err != nil {
			continue // empty, or broken off
		}
		name, err := strconv.Unquote(first)
		if err != nil {
			continue
		}
		if gone {
			delete(all, name)
		} else if value, err := strconv.Unquote(strings.TrimPrefix(text[len(first):], " ")); err == nil {
			all[name] = []byte(value)
		}
	}
	return all, nil
}

// line begins with its own break, so that it stands alone even after one that was not finished.
func line(name string, value []byte) string {
	return "\n" + strconv.Quote(name) + " " + strconv.Quote(string(value))
}

// full says in the gateway's words that the disk is.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return s3err.GetAPIError(s3err.ErrNoSpaceLeftOnDevice)
	}
	return err
}
