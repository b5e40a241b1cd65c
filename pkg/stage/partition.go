package stage

import (
	"sort"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
)

// partition follows one assignment of one partition: which of its records were taken, which are done, and up to where
// the prefix of done ones reaches. A new assignment is a new partition, so that a finish that comes late, after a
// revoke, lands in an object that nobody commits from.
type partition struct {
	topic string
	id    int32

	mu        sync.Mutex
	taken     []taken // in the order of their offsets; the head is the lowest unfinished one
	next      kgo.EpochOffset
	dirty     bool // next moved since it was last committed
	revoked   bool
	watermark int64 // behind the partition's last record, as of the last fetch

	note     note // what the next commit says
	last     note // what the last owner said, while suspects are left
	suspects int  // records still to be handed out that the last owner may have died of
}

type taken struct {
	offset int64
	epoch  int32
	done   bool
}

func newPartition(topic string, id int32) *partition {
	return &partition{topic: topic, id: id, next: kgo.EpochOffset{Epoch: -1, Offset: -1}, note: noNote, last: noNote}
}

// take notes a record as fetched. Offsets ascend within an assignment.
func (p *partition) take(offset int64, epoch int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next.Offset < 0 {
		p.next = kgo.EpochOffset{Epoch: epoch, Offset: offset}
	}
	p.taken = append(p.taken, taken{offset: offset, epoch: epoch})
}

// judge says whether the last owner may have died of a record that is handed out for the first time. One that is put off
// now may have been in its handler all the same, and is suspected without taking another's place: however many wait, those
// behind them come into doubt too.
func (p *partition) judge(offset int64, putOff bool) (suspect bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.suspects == 0 {
		return p.last.of(offset) > 0
	}
	if !putOff {
		p.suspects--
	}
	return true
}

// finish notes a record as done. What may be committed grows only while the lowest taken record is done: with offset 77
// finished and 50 not, 50 stays the next to be read after a crash.
func (p *partition) finish(offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.revoked {
		return
	}
	i := sort.Search(len(p.taken), func(i int) bool { return p.taken[i].offset >= offset })
	if i == len(p.taken) || p.taken[i].offset != offset {
		return
	}
	p.taken[i].done = true
	n := 0
	for n < len(p.taken) && p.taken[n].done {
		p.next = kgo.EpochOffset{Epoch: p.taken[n].epoch, Offset: p.taken[n].offset + 1}
		n++
	}
	if n > 0 {
		p.taken = append(p.taken[:0], p.taken[n:]...)
		p.dirty = true
		p.note = p.note.without(func(offset int64) bool { return offset < p.next.Offset }) // settled: what is said of it is over
	}
}

// committable is what may be committed now, if anything moved since the last committed call or if still is wanted too.
func (p *partition) committable(still bool) (at kgo.EpochOffset, n note, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.next, p.note, !p.revoked && p.next.Offset >= 0 && (p.dirty || still)
}

// committed notes that at was committed.
func (p *partition) committed(at kgo.EpochOffset) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next == at {
		p.dirty = false
	}
}

// revoke ends the assignment: nothing of it is committed from here on.
func (p *partition) revoke() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.revoked = true
}

func (p *partition) isRevoked() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.revoked
}

// suspect takes over what the last owner, which died, said.
func (p *partition) suspect(n note) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last, p.suspects = n, n.width
}

// open says from now on that the partition is being worked on, with up to width records in the handler. It reports
// whether that is news. What the last owner said of a record that it handled alone is kept until that record is settled.
//
// Where the last owner died before anything was committed, since the first records wait for their turn, what was handled
// behind them is handled again, and the same ones would be suspected in each life. Then twice as many are.
func (p *partition) open(width int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.note.running {
		return false
	}
	if p.last.running && p.last.from == p.next.Offset {
		width = max(width, min(2*p.last.width, maxReach))
	}
	p.note = p.last
	p.note.running, p.note.width, p.note.from = true, width, p.next.Offset
	return true
}

// close says that the partition is given back.
func (p *partition) close() (wasOpen bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	wasOpen = p.note.running
	p.note = noNote
	return wasOpen
}

// deathsOf is how often a process died while it handled the record alone.
func (p *partition) deathsOf(offset int64) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.note.of(offset)
}

// enter says that the record is about to be handled alone, and that a death would be its deaths-th.
func (p *partition) enter(offset int64, deaths int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.note = p.note.enter(offset, deaths)
}

// survived says that the record was handled alone and the process lives.
func (p *partition) survived(offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	this := func(o int64) bool { return o == offset }
	p.note, p.last = p.note.without(this), p.last.without(this)
}

// saw notes the watermark of a fetch.
func (p *partition) saw(watermark int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watermark = watermark
}

// lag is how many records wait behind the lowest unfinished one; 0 until a record was fetched.
func (p *partition) lag() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next.Offset < 0 {
		return 0
	}
	return max(0, p.watermark-p.next.Offset)
}
