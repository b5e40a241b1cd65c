package sqlserver

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// decompressor undoes what a client did to a body: HTTP's Content-Encoding, then ClickHouse's own blocks
// (decompress=1).
func decompressor(body io.Reader, encoding string, native bool) (io.Reader, error) {
	switch encoding {
	case "", "identity":
	case "gzip", "x-gzip":
		reader, err := gzip.NewReader(body)
		if err != nil {
			return nil, fmt.Errorf("reading gzip: %w", err)
		}
		body = reader
	case "deflate":
		reader, err := zlib.NewReader(body)
		if err != nil {
			return nil, fmt.Errorf("reading deflate: %w", err)
		}
		body = reader
	case "br":
		body = brotli.NewReader(body)
	case "zstd":
		reader, err := zstd.NewReader(body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
		if err != nil {
			return nil, fmt.Errorf("reading zstd: %w", err)
		}
		body = reader.IOReadCloser()
	case "lz4":
		body = lz4.NewReader(body)
	default:
		return nil, fmt.Errorf("unknown Content-Encoding %q", encoding)
	}
	if native {
		source := &countingReader{from: bufio.NewReader(body)}
		body = &blockReader{source: source, blocks: compress.NewReader(source)}
	}
	return body, nil
}

// blockReader reads ClickHouse's compressed blocks. Their format has no end mark: the end of the body is one
// where a block could begin, and a broken body anywhere else.
type blockReader struct {
	source *countingReader
	blocks *compress.Reader
	whole  int64 // bytes of the source that made up whole blocks
	err    error // sticky: after a failure compress.Reader would give its last block again
}

func (b *blockReader) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.blocks.Read(p)
	switch {
	case err == nil:
		b.whole = b.source.n
	case errors.Is(err, io.EOF) && b.source.n == b.whole:
		err = io.EOF
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	b.err = err
	return n, err
}

type countingReader struct {
	from io.Reader
	n    int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.n += int64(n)
	return n, err
}

// compressor wraps an answer as the client asked for it; close it to flush. encoding is the Content-Encoding
// to announce, empty for ClickHouse's own blocks and for none.
func compressor(out io.Writer, accept string, query url.Values) (w io.WriteCloser, encoding string) {
	if query.Get("compress") == "1" {
		method := compress.LZ4
		switch strings.ToUpper(query.Get("network_compression_method")) {
		case "ZSTD":
			method = compress.ZSTD
		case "NONE":
			method = compress.None
		}
		return &blockWriter{out: out, blocks: compress.NewWriter(compress.LevelZero, method)}, ""
	}
	if query.Get("enable_http_compression") == "0" {
		accept = ""
	}
	for _, candidate := range []string{"zstd", "lz4", "br", "gzip", "deflate"} {
		if !strings.Contains(accept, candidate) {
			continue
		}
		switch candidate {
		case "zstd":
			if z, err := zstd.NewWriter(out, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest)); err == nil {
				return z, candidate
			}
		case "lz4":
			return lz4.NewWriter(out), candidate
		case "br":
			return brotli.NewWriterLevel(out, 1), candidate
		case "gzip":
			if z, err := gzip.NewWriterLevel(out, gzip.BestSpeed); err == nil {
				return z, candidate
			}
		case "deflate":
			if z, err := zlib.NewWriterLevel(out, zlib.BestSpeed); err == nil {
				return z, candidate
			}
		}
	}
	return plainWriter{out}, ""
}

type plainWriter struct{ io.Writer }

func (plainWriter) Close() error { return nil }

// blockWriter writes ClickHouse's compressed blocks, at most 1 MiB of data each.
type blockWriter struct {
	out    io.Writer
	blocks *compress.Writer
}

func (b *blockWriter) Write(data []byte) (int, error) {
	const blockSize = 1 << 20
	for rest := data; len(rest) > 0; {
		n := min(len(rest), blockSize)
		if err := b.blocks.Compress(rest[:n]); err != nil {
			return 0, fmt.Errorf("compressing: %w", err)
		}
		if _, err := b.out.Write(b.blocks.Data); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(data), nil
}

func (b *blockWriter) Close() error { return nil }
