package kafka

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
	"unsafe"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// MaxUnfolded bounds what one client's fetched batches take in memory together, unfolded and not yet polled, in bytes.
const MaxUnfolded = 5 * MaxDecompressed / 2

// room is what a client may unfold at a time. The client unfolds all that a fetch brought before it hands any of it on, and
// a fetch of some hundred kB may be sixty batches, each just below the bound of one. A batch for which there is no room is
// refused with errNotNow: the client hands on those before it in its partition, and asks for it again.
//
// Room comes back when the collector has found a batch's memory to be free, whatever became of the batch: polled, thrown away
// in a rebalance, or fetched from the middle. So garbage counts as well, and what is bounded is what the process grows by.
type room struct {
	most int

	mu    sync.Mutex
	used  int
	freed chan struct{} // closed and replaced when some came back
	last  time.Time     // when a batch was last refused after a wait

	making sync.Mutex // held by the one who makes room
}

// errNotNow refuses a batch for which there is no room. Being one of the faults that Kafka's client asks again by itself, it
// is told to nobody.
var errNotNow = fmt.Errorf("no room to unfold a batch now: %w", kerr.ThrottlingQuotaExceeded)

const (
	// refusedFor is how long a batch waits for room. The client asks for it again at once; where nothing else is fetched from
	// its broker, this alone keeps that from becoming a spin.
	refusedFor = 50 * time.Millisecond
	// refusedTogether is how long after such a wait others are refused without one, such as those of a fetch's other partitions.
	refusedTogether = 10 * time.Millisecond
)

func newRoom(most int) *room {
	return &room{most: most, freed: make(chan struct{})}
}

// take takes room for n bytes, or is an errNotNow.
func (r *room) take(n int) error {
	if r.has(n) {
		return nil
	}
	r.making.Lock()
	defer r.making.Unlock()
	if r.has(n) {
		return nil
	}
	if time.Since(r.last) < refusedTogether {
		return errNotNow
	}
	runtime.GC()
	wait := time.NewTimer(refusedFor)
	defer wait.Stop()
	for {
		r.mu.Lock()
		freed := r.freed
		r.mu.Unlock()
		if r.has(n) {
			return nil
		}
		select {
		case <-freed:
		case <-wait.C:
			r.last = time.Now()
			return errNotNow
		}
	}
}

func (r *room) has(n int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.used+n > r.most {
		return false
	}
	r.used += n
	return true
}

// give gives back what was taken.
func (r *room) give(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used -= n
	close(r.freed)
	r.freed = make(chan struct{})
}

// What the client makes of a record and of a header besides their bytes: the structures, and pointers to them in slices that
// grow. An empty record is 7 bytes, an empty header 2.
const (
	recordBytes = int(unsafe.Sizeof(kgo.Record{})) + 32
	headerBytes = int(unsafe.Sizeof(kgo.RecordHeader{})) + 16
)

// weigh is how many bytes the client takes for the records of a batch besides the batch. It reads as the client does, up to
// the first record that is none.
func weigh(batch []byte) int {
	weight := 0
	for {
		length, used := kbin.Varint(batch)
		total := used + int(length)
		if used <= 0 || length < 0 || len(batch) < total {
			return weight
		}
		b := kbin.Reader{Src: batch[used:total]}
		b.Int8() // attributes
		b.Varlong()
		b.Varint()
		b.VarintBytes() // key
		b.VarintBytes() // value
		headers := int(b.VarintArrayLen())
		if !b.Ok() {
			return weight
		}
		weight += recordBytes + headerBytes*max(0, headers)
		batch = batch[total:]
	}
}

// bounded bounds the memory of a client that reads: what one batch may unfold to, and all of them together.
func bounded(one, all int) []kgo.Opt {
	return []kgo.Opt{
		kgo.WithDecompressor(newUnfolder(one, newRoom(all))),
		kgo.WithPools(tied{}),
		kgo.WithHooks(untied{}),
	}
}

// tied ties the memory of a batch to each of its records, also to those that have no bytes of it, for as long as the client
// keeps them: a client that is given such a pool has each record point to what its batch was unfolded into. Nothing is ever
// taken from the pool.
type tied struct{}

func (tied) GetDecompressBytes([]byte, kgo.CompressionCodecType) []byte { return nil }
func (tied) PutDecompressBytes([]byte)                                  {}

// untied gives each record that is polled memory of its own: one that is kept, because it waits for its turn, would keep all
// that was fetched with it, and the client from fetching more.
type untied struct{}

// OnFetchRecordUnbuffered is called before a poll returns the record.
func (untied) OnFetchRecordUnbuffered(r *kgo.Record, polled bool) {
	r.Context = nil
	if !polled {
		return // and nobody's
	}
	r.Key, r.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
	r.Headers = slices.Clone(r.Headers)
	for i := range r.Headers {
		r.Headers[i].Value = bytes.Clone(r.Headers[i].Value)
	}
}
