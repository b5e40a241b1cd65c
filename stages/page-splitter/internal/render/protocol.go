package render

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"leafcutter/pkg/filetype"
	"leafcutter/schemas"
)

// The protocol between a stage and its children: a frame is a length of four
// bytes, big endian, and as many bytes of JSON. The parent sends requests and the
// child answers each with one reply, whose image follows as plain bytes. The
// first request is "hello"; the descriptor of the document's file follows an
// "open" as a control message on a byte of its own.

type request struct {
	Op string // hello, open, page, close

	Limits *limits       `json:",omitempty"` // hello
	Type   filetype.Type `json:",omitempty"` // open
	Size   int64         `json:",omitempty"` // open: bytes of the file
	Page   int           `json:",omitempty"` // page, from 1
	DPI    int           `json:",omitempty"` // page
}

// limits is what a child lets a document cost, set by hello.
type limits struct {
	Memory    int64
	MaxPixels int
	MaxPages  int
	CPU       int64 // seconds of the child's whole life
}

type reply struct {
	Code  string `json:",omitempty"` // one of the codes of this package, empty for success
	Error string `json:",omitempty"`

	PageCount int                `json:",omitempty"` // open
	Width     int                `json:",omitempty"` // page
	Height    int                `json:",omitempty"` // page
	DPI       int                `json:",omitempty"` // page
	Lines     []schemas.TextLine `json:",omitempty"` // page
	PNG       int                `json:",omitempty"` // page: bytes of the image that follows

	RSS int64   // bytes, the most that the child has ever had
	CPU float64 // seconds that the child has used
}

// Bounds of what a parent believes a child. The text of a page is cut to
// maxTextBytes, which JSON can inflate sixfold at worst.
const (
	maxTextBytes = 1 << 20
	maxTextLines = 20_000
	maxFrame     = 6*maxTextBytes + 128*maxTextLines + 1<<20
)

// maxPNG is the largest image that may follow a reply: stored rows, never larger
// than the pixels by more than a filter byte a row and deflate's overhead.
func (l limits) maxPNG() int { return 4*l.MaxPixels + 1<<20 }

var errFrame = errors.New("frame is larger than any that is sent")

func writeFrame(w io.Writer, message any) error {
	body, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("encoding a frame: %w", err)
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	if _, err := w.Write(append(frame, body...)); err != nil {
		return fmt.Errorf("writing a frame: %w", err)
	}
	return nil
}

func readFrame(r io.Reader, message any) error {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return err // io.EOF between frames is how the other end says goodbye
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > maxFrame {
		return fmt.Errorf("%w: %d bytes", errFrame, n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return fmt.Errorf("reading a frame: %w", err)
	}
	if err := json.Unmarshal(body, message); err != nil {
		return fmt.Errorf("decoding a frame: %w", err)
	}
	return nil
}

// sendFile hands the descriptor of f to the other end.
func sendFile(conn *net.UnixConn, f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("passing the file: %w", err)
	}
	var sendErr error
	// Inside Control the descriptor cannot be closed and given to another file.
	err = raw.Control(func(fd uintptr) {
		_, _, sendErr = conn.WriteMsgUnix([]byte{0}, syscall.UnixRights(int(fd)), nil)
	})
	if err := errors.Join(err, sendErr); err != nil {
		return fmt.Errorf("passing the file: %w", err)
	}
	return nil
}

// receiveFile returns the descriptor that the other end handed over.
func receiveFile(conn *net.UnixConn) (int, error) {
	oob := make([]byte, syscall.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return -1, fmt.Errorf("receiving the file: %w", err)
	}
	messages, err := syscall.ParseSocketControlMessage(oob[:oobn])
	if err != nil || n != 1 || len(messages) != 1 {
		return -1, errors.Join(errors.New("receiving the file: no descriptor came"), err)
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.Join(errors.New("receiving the file: no descriptor came"), err)
	}
	return fds[0], nil
}
