package render

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"leafcutter/schemas"
)

func TestFrames(t *testing.T) {
	var wire bytes.Buffer
	sent := reply{Code: CodeEncrypted, Error: "no", Lines: []schemas.TextLine{{Text: "é\u2028", Rect: [4]float64{1, 2, 3, 4}}}, PNG: 7}
	for range 2 {
		if err := writeFrame(&wire, sent); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		var got reply
		if err := readFrame(&wire, &got); err != nil || got.Code != sent.Code || got.Lines[0] != sent.Lines[0] || got.PNG != 7 {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if err := readFrame(&wire, &reply{}); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	huge := binary.BigEndian.AppendUint32(nil, maxFrame+1)
	if err := readFrame(bytes.NewReader(huge), &reply{}); !errors.Is(err, errFrame) {
		t.Errorf("too large: %v", err)
	}
}

// TestLies: a child that its document has taken over may answer anything; none of
// it may cost the stage memory or be believed.
func TestLies(t *testing.T) {
	png, long := pngOf(10, 10), pngOf(schemas.MaxPageSide+1, 1)
	for name, c := range map[string]struct {
		req   request
		reply reply
		after []byte
	}{
		"unknown code":       {request{Op: "page"}, reply{Code: "all-is-well"}, nil},
		"image of a failure": {request{Op: "page"}, reply{Code: CodeEncrypted, PNG: 5}, []byte("12345")},
		"no image":           {request{Op: "page"}, reply{Width: 10, Height: 10}, nil},
		"negative image":     {request{Op: "page"}, reply{Width: 10, Height: 10, PNG: -1}, nil},
		"endless image":      {request{Op: "page"}, reply{Width: 10, Height: 10, PNG: 1 << 40}, nil},
		"no size":            {request{Op: "page"}, reply{PNG: len(png)}, png},
		"endless size":       {request{Op: "page"}, reply{Width: 1 << 40, Height: 1 << 40, PNG: len(png)}, png},
		"endless row":        {request{Op: "page"}, reply{Width: schemas.MaxPageSide + 1, Height: 1, PNG: len(long)}, long},
		"another size":       {request{Op: "page"}, reply{Width: 10, Height: 11, PNG: len(png)}, png},
		"not an image":       {request{Op: "page"}, reply{Width: 10, Height: 10, PNG: 5}, []byte("12345")},
		"no pages":           {request{Op: "open"}, reply{}, nil},
		"endless pages":      {request{Op: "open"}, reply{PageCount: 1 << 40}, nil},
		"unasked image":      {request{Op: "close"}, reply{PNG: 5}, []byte("12345")},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs, err := socketPair()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = ours.Close() }()
			conn, err := net.FileConn(theirs)
			if err != nil {
				t.Fatal(err)
			}
			if err := theirs.Close(); err != nil {
				t.Fatal(err)
			}
			answered := make(chan error, 1)
			go func() {
				var req request
				answered <- errors.Join(readFrame(conn, &req), writeFrame(conn, c.reply), writeAll(conn, c.after), conn.Close())
			}()
			cfg := testConfig()
			p := &process{conn: ours, limits: limits{MaxPixels: cfg.MaxPixels, MaxPages: cfg.MaxPages}}
			if ans, err := p.exchange(c.req, nil); !errors.Is(err, errLie) {
				t.Errorf("believed %+v, %v", ans, err)
			}
			if err := <-answered; err != nil {
				t.Error(err)
			}
		})
	}
}

func writeAll(w io.Writer, data []byte) error {
	_, err := w.Write(data)
	return err
}

// TestTail keeps what a child said last.
func TestTail(t *testing.T) {
	var said tail
	if said.String() != "" {
		t.Errorf("of nothing: %q", said.String())
	}
	for range 100 {
		if err := writeAll(&said, []byte(strings.Repeat("x", 77))); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeAll(&said, []byte(strings.Repeat("y", 3*tailSize)+"panic: end")); err != nil {
		t.Fatal(err)
	}
	if got := said.String(); !strings.Contains(got, "panic: end") || len(got) > 2*tailSize || strings.Contains(got, "x") {
		t.Errorf("%d bytes: %.80s…", len(got), got)
	}
}

// TestChildWithoutParent: the hidden argument typed by hand ends with an error
// and does nothing.
func TestChildWithoutParent(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "/proc/self/exe", ChildArg).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !bytes.Contains(out, []byte("parent")) {
		t.Errorf("%v: %s", err, out)
	}
}

func FuzzReadFrame(f *testing.F) {
	var wire bytes.Buffer
	if err := writeFrame(&wire, reply{PageCount: 3, RSS: 1, CPU: 0.5}); err != nil {
		f.Fatal(err)
	}
	f.Add(wire.Bytes())
	f.Add([]byte{0, 0, 0, 2, '{', '}'})
	f.Add([]byte{255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		var got reply
		if err := readFrame(bytes.NewReader(data), &got); err != nil {
			return
		}
		var again bytes.Buffer
		if err := writeFrame(&again, got); err != nil {
			t.Fatal(err)
		}
	})
}
