package kafka

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kgo"
)

// writers are the encoders of Kafka's codecs that can stream, by name.
var writers = map[string]struct {
	codec kgo.CompressionCodecType
	open  func(io.Writer) io.WriteCloser
}{
	"gzip": {kgo.CodecGzip, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }},
	"lz4":  {kgo.CodecLz4, func(w io.Writer) io.WriteCloser { return lz4.NewWriter(w) }},
	"lz4 in blocks of 64 KiB": {kgo.CodecLz4, func(w io.Writer) io.WriteCloser {
		l := lz4.NewWriter(w)
		if err := l.Apply(lz4.BlockSizeOption(lz4.Block64Kb)); err != nil {
			panic(err)
		}
		return l
	}},
	"zstd":                         {kgo.CodecZstd, zstdWriter(zstd.WithWindowSize(64 << 10))},
	"zstd with a window of 8 MiB":  {kgo.CodecZstd, zstdWriter(zstd.WithWindowSize(8 << 20))},
	"zstd with a window of 64 MiB": {kgo.CodecZstd, zstdWriter(zstd.WithWindowSize(64 << 20))},
}

func zstdWriter(opts ...zstd.EOption) func(io.Writer) io.WriteCloser {
	return func(w io.Writer) io.WriteCloser {
		z, err := zstd.NewWriter(w, append(opts, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithEncoderLevel(zstd.SpeedFastest))...)
		if err != nil {
			panic(err)
		}
		return z
	}
}

func folded(t testing.TB, open func(io.Writer) io.WriteCloser, parts ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := open(&b)
	for _, part := range parts {
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// javaSnappy frames blocks of 32 KiB as Java does.
func javaSnappy(data []byte) []byte {
	out := append(bytes.Clone(xerial), 0, 0, 0, 1, 0, 0, 0, 1)
	for {
		n := min(32<<10, len(data))
		b := s2.EncodeSnappy(nil, data[:n])
		out = append(binary.BigEndian.AppendUint32(out, uint32(len(b))), b...)
		if data = data[n:]; len(data) == 0 {
			return out
		}
	}
}

// foldings are the data as each codec writes it, in each way that producers do.
func foldings(t testing.TB, data []byte) map[string]struct {
	codec kgo.CompressionCodecType
	src   []byte
} {
	t.Helper()
	all := map[string]struct {
		codec kgo.CompressionCodecType
		src   []byte
	}{}
	half := len(data) / 2
	for name, w := range writers {
		all[name] = struct {
			codec kgo.CompressionCodecType
			src   []byte
		}{w.codec, folded(t, w.open, data[:half], data[half:])}
		if strings.Contains(name, "window") {
			continue // of a second frame a wide one is refused
		}
		all[name+", two frames"] = struct {
			codec kgo.CompressionCodecType
			src   []byte
		}{w.codec, append(folded(t, w.open, data[:half]), folded(t, w.open, data[half:])...)}
	}
	add := func(name string, codec kgo.CompressionCodecType, src []byte) {
		all[name] = struct {
			codec kgo.CompressionCodecType
			src   []byte
		}{codec, src}
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	add("zstd that says its size", kgo.CodecZstd, z.EncodeAll(data, nil))
	add("zstd that says its sizes, two frames", kgo.CodecZstd, z.EncodeAll(data[half:], z.EncodeAll(data[:half], nil)))
	add("snappy", kgo.CodecSnappy, s2.EncodeSnappy(nil, data))
	add("snappy from Java", kgo.CodecSnappy, javaSnappy(data))
	add("none", kgo.CodecNone, data)
	return all
}

// Data like a batch of records of 2 kB: JSON whose numbers differ.
func likeRecords(size int) []byte {
	random := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	for b.Len() < size {
		record := b.Len()
		fmt.Fprintf(&b, `{"type":"PageDetected","document_id":"%016x%016x","page":%d,"boxes":[`, random.Uint64(), random.Uint64(), random.IntN(5000))
		for b.Len()-record < 1950 {
			fmt.Fprintf(&b, `{"class":"text","score":0.%04d,"box":[%d,%d,%d,%d]},`, random.IntN(10000), random.IntN(2480), random.IntN(3508), random.IntN(2480), random.IntN(3508))
		}
		b.WriteString("]}")
	}
	return b.Bytes()[:size]
}

func TestUnfoldsWhatProducersFold(t *testing.T) {
	const most = scratchBytes + 200_007
	u := newUnfolder(most, newRoom(MaxUnfolded))
	records := likeRecords(most)
	for _, size := range []int{0, 1, 100_000, scratchBytes, most} {
		for kind, data := range map[string][]byte{"records": records[:size], "zeros": make([]byte, size)} {
			for name, f := range foldings(t, data) {
				for range 2 { // the second time with decoders that have been used
					if got, err := u.Decompress(f.src, f.codec); err != nil || !bytes.Equal(got, data) {
						t.Errorf("%s, %d bytes of %s: %d bytes, %v", name, size, kind, len(got), err)
					}
				}
			}
		}
	}
}

func TestUnfoldsNoMoreThanItMay(t *testing.T) {
	for _, most := range []int{64 << 10, scratchBytes + 7} {
		u := newUnfolder(most, newRoom(MaxUnfolded))
		for name, f := range foldings(t, likeRecords(most+1)) {
			if f.codec == kgo.CodecNone {
				continue // what is not folded is not unfolded
			}
			if got, err := u.Decompress(f.src, f.codec); !errors.Is(err, kgo.ErrMaxDecompress) {
				t.Errorf("%s, one byte above %d: %d bytes, %v", name, most, len(got), err)
			}
		}
		for name, f := range foldings(t, likeRecords(most)) {
			if got, err := u.Decompress(f.src, f.codec); err != nil || len(got) != most {
				t.Errorf("%s, %d bytes: %d bytes, %v", name, most, len(got), err)
			}
		}
	}
}

// What a bomb costs is what the decoders keep, once: no bytes of what it unfolds to. Measured as all that was ever
// allocated, since garbage that waits for the collector is memory too.
func TestBombsCostNoMemory(t *testing.T) {
	parts := make([][]byte, 2*MaxDecompressed>>20)
	nothing := make([]byte, 1<<20)
	for n := range parts {
		parts[n] = nothing
	}
	for name, w := range writers {
		t.Run(name, func(t *testing.T) {
			bomb := folded(t, w.open, parts...)
			u := newUnfolder(MaxDecompressed, newRoom(MaxUnfolded))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range 4 {
				if got, err := u.Decompress(bomb, w.codec); !errors.Is(err, kgo.ErrMaxDecompress) {
					t.Fatalf("%d bytes, %v", len(got), err)
				}
			}
			runtime.ReadMemStats(&after)
			spent := float64(after.TotalAlloc-before.TotalAlloc) / (1 << 20)
			t.Logf("4 bombs of %.2f MB: %.1f MiB allocated", float64(len(bomb))/1e6, spent)
			// The client's own takes several times the bound for each. The collector may empty a pool between two of them, and the
			// race detector has a pool drop a quarter of what is put into it.
			if spent > 6*MaxDecompressed>>20 {
				t.Errorf("4 bombs of %d MiB cost %.0f MiB", len(parts), spent)
			}
		})
	}
}

// Lies about sizes are errors, and are paid for by nobody.
func TestLiesCostNoMemory(t *testing.T) {
	u := newUnfolder(MaxDecompressed, newRoom(MaxUnfolded))
	sized := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0} // a single segment whose size is four bytes
	for name, f := range map[string]struct {
		codec kgo.CompressionCodecType
		src   []byte
	}{
		"zstd, 31 MiB":   {kgo.CodecZstd, append(binary.LittleEndian.AppendUint32(sized, 31<<20), 1, 0, 0)},
		"zstd, 4 GiB":    {kgo.CodecZstd, append(binary.LittleEndian.AppendUint32(sized, 1<<32-1), 1, 0, 0)},
		"snappy, 31 MiB": {kgo.CodecSnappy, append(binary.AppendUvarint(nil, 31<<20), 0, 'x')},
		"snappy, 4 GiB":  {kgo.CodecSnappy, append(binary.AppendUvarint(nil, 1<<32-1), 0, 'x')},
		"snappy from Java": {kgo.CodecSnappy, append(append(bytes.Clone(xerial), 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 6),
			append(binary.AppendUvarint(nil, 31<<20), 0, 'x')...)},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, err := u.Decompress(f.src, f.codec)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: %d bytes without an error", name, len(got))
		}
		if spent := (after.TotalAlloc - before.TotalAlloc) >> 20; spent > 40 {
			t.Errorf("%s costs %d MiB", name, spent)
		}
	}
}

// Several brokers answer at once.
func TestUnfoldsForSeveralAtOnce(t *testing.T) {
	const most = 2 * scratchBytes
	u := newUnfolder(most, newRoom(MaxUnfolded))
	var all sync.WaitGroup
	for _, size := range []int{5000, most, most + 1} {
		data := likeRecords(size)
		for name, f := range foldings(t, data) {
			all.Go(func() {
				got, err := u.Decompress(f.src, f.codec)
				if size > most && f.codec != kgo.CodecNone {
					if !errors.Is(err, kgo.ErrMaxDecompress) {
						t.Errorf("%s, %d bytes: %v", name, size, err)
					}
				} else if err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s, %d bytes: %d, %v", name, size, len(got), err)
				}
			})
		}
	}
	all.Wait()
}

func TestNoSuchCodec(t *testing.T) {
	if _, err := newUnfolder(1<<20, newRoom(MaxUnfolded)).Decompress([]byte("x"), 5); err == nil {
		t.Error("no error")
	}
}

// Whatever a producer sends, it is unfolded as the client's own decompressor does, or is an error.
func FuzzUnfold(f *testing.F) {
	for _, size := range []int{0, 300, 70_000} {
		for _, folding := range foldings(f, likeRecords(size)) {
			f.Add(folding.src, int8(folding.codec))
			if n := len(folding.src); n > 20 {
				f.Add(folding.src[:n-3], int8(folding.codec))
				broken := bytes.Clone(folding.src)
				broken[n/2] ^= 0x10
				f.Add(broken, int8(folding.codec))
			}
		}
	}
	const most = 2 << 20
	u, standard := newUnfolder(most, newRoom(MaxUnfolded)), kgo.DefaultDecompressor()
	f.Fuzz(func(t *testing.T, src []byte, codec int8) {
		given := bytes.Clone(src)
		got, err := u.Decompress(src, kgo.CompressionCodecType(codec))
		if !bytes.Equal(src, given) {
			t.Fatal("what was given is changed")
		}
		if err != nil {
			if got != nil {
				t.Errorf("%d bytes besides the error %v", len(got), err)
			}
			return
		}
		if codec != 0 && len(got) > most {
			t.Errorf("%d bytes", len(got))
		}
		want, err := standard.Decompress(src, kgo.CompressionCodecType(codec))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, where the client has %d, %v", len(got), len(want), err)
		}
	})
}

// What an ordinary batch costs, ours and the client's own: 50 records of 2 kB.
func BenchmarkUnfold(b *testing.B) {
	data := likeRecords(100_000)
	for name, f := range foldings(b, data) {
		switch name {
		case "gzip", "lz4", "zstd", "zstd that says its size", "snappy", "snappy from Java":
		default:
			continue
		}
		for who, d := range map[string]kgo.Decompressor{"ours": newUnfolder(MaxDecompressed, newRoom(MaxUnfolded)), "client's": kgo.DefaultDecompressor()} {
			b.Run(name+"/"+who, func(b *testing.B) {
				b.SetBytes(int64(len(data)))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := d.Decompress(f.src, f.codec); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
