package kafka

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// MaxUnfolded bounds what one client's compressed batches take in memory together, unfolded and not yet polled, in bytes.
const MaxUnfolded = 5 * MaxDecompressed / 2

// room is what a client may unfold of compressed batches at a time. The client unfolds all that a fetch brought before it
// hands any of it on, and a fetch of some hundred kB may be sixty batches, each just below the bound of one. A batch for which
// there is no room is refused with errNotNow: the client hands on those before it in its partition, and asks for it again.
//
// Batches that are not compressed are not counted, for the client asks nobody before it reads those. They are what came over
// the wire, which NewClient bounds for each fetch, and the client's structures for their records.
//
// Room comes back when the collector has found a batch's memory to be free, whatever became of the batch: polled, thrown away
// in a rebalance, or fetched from the middle. So garbage counts as well, and what is bounded is what the process grows by.
type room struct {
	most int

	mu    sync.Mutex
	used  int
	freed chan struct{} // closed and replaced when some came back

	answers atomic.Int64 // to the client's fetches

	making  sync.Mutex // held by the one who makes room
	refused int64      // how many answers there were when a batch was last refused after a wait
}

// errNotNow refuses a batch for which there is no room. Being one of the faults that Kafka's client asks again by itself, it
// is told to nobody. Where the batch is the first of its partition in an answer, the client loads its metadata anew; where
// that is so of all partitions that the fetch was for, it also backs off, from 250 ms on. Otherwise it asks again at once.
var errNotNow = fmt.Errorf("no room to unfold a batch now: %w", kerr.ThrottlingQuotaExceeded)

// refusedFor is how long a batch waits for room: where another partition of the fetch has merely nothing new, this alone keeps
// asking again from becoming a spin. It goes on while the client holds up a rebalance, so it is waited once for all that came
// before its end, however many partitions that is of and however long it takes to count their batches. Only the answer to
// another fetch is waited for anew.
const refusedFor = 50 * time.Millisecond

func newRoom(most int) *room {
	return &room{most: most, freed: make(chan struct{}), refused: -1}
}

// OnBrokerRead is called for each answer before what it brought is unfolded.
func (r *room) OnBrokerRead(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, _ error) {
	if key == (&kmsg.FetchRequest{}).Key() {
		r.answers.Add(1)
	}
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
	if r.answers.Load() == r.refused {
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
			r.refused = r.answers.Load()
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

// bounded bounds the memory of a client that reads: what one compressed batch may unfold to, and all of them together.
func bounded(one, all int) []kgo.Opt {
	room := newRoom(all)
	return []kgo.Opt{
		kgo.WithDecompressor(newUnfolder(one, room)),
		kgo.WithHooks(room),
		kgo.WithPools(tied{}),
	}
}

// tied ties the memory of a batch to each of its records, also to those that have no bytes of it, for as long as the client
// keeps them: a client that is given such a pool has each record point to what its batch was unfolded into. Nothing is ever
// taken from the pool.
type tied struct{}

func (tied) GetDecompressBytes([]byte, kgo.CompressionCodecType) []byte { return nil }
func (tied) PutDecompressBytes([]byte)                                  {}

// Own is a copy of a polled record that shares no memory with it. Whoever keeps a record beyond the next poll keeps such a copy,
// or copies of what it needs: the record itself keeps all of its batch, and so the client from fetching more.
func Own(r *kgo.Record) *kgo.Record {
	own := *r
	own.Context = nil
	own.Key, own.Value = bytes.Clone(r.Key), bytes.Clone(r.Value)
	own.Headers = slices.Clone(r.Headers)
	for i := range own.Headers {
		own.Headers[i].Value = bytes.Clone(own.Headers[i].Value)
	}
	return &own
}
