package controls

import (
	"bytes"
	"hash/maphash"
	"slices"
	"time"

	"leafcutter/schemas"
)

// key is the id of a document without its text: every stage holds one for each document that anything was ever asked
// of, since a delete holds for ever.
type key [16]byte

// keyOf reads a UUID in its canonical form. It allocates nothing: it is asked for every record.
func keyOf(text string) (k key, ok bool) {
	if len(text) != 36 {
		return k, false
	}
	digits := 0
	for i := range len(text) {
		c := text[i]
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return k, false
			}
			continue
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		default:
			return k, false
		}
		k[digits/2] = k[digits/2]<<4 | c
		digits++
	}
	return k, true
}

// held is a control without its document.
type held struct {
	sequence int64
	at       int64 // in milliseconds since 1970, the action in the two lowest bits
}

func heldOf(c schemas.Control) (h held, known bool) {
	h = held{c.Sequence, c.At.UnixMilli() << 2}
	switch c.Action {
	case schemas.ActionCancel:
	case schemas.ActionResume:
		h.at |= 1
	case schemas.ActionDelete:
		h.at |= 2
	default:
		return held{}, false
	}
	return h, true
}

func (h held) action() string {
	switch h.at & 3 {
	case 0:
		return schemas.ActionCancel
	case 1:
		return schemas.ActionResume
	default:
		return schemas.ActionDelete
	}
}

func (h held) of(document string) schemas.Control {
	return schemas.Control{DocumentID: document, Action: h.action(), Sequence: h.sequence, At: time.UnixMilli(h.at >> 2).UTC()}
}

// table is a map from documents to what holds of them that takes 32 bytes for each and an eighth more, where Go's own takes
// between 50 and 100: sorted slices, to each of which a hash sends its share.
type table struct {
	seed   maphash.Seed
	slices [][]entry // shares of them, once there is an entry
}

type entry struct {
	key  key
	held held
}

// shares is such that a slice of a million's is 8 kB, which is moved when one is put into it.
const shares = 4096

func newTable() table { return table{seed: maphash.MakeSeed()} }

// find says where an entry is, or would be.
func (t *table) find(k key) (share, at int, ok bool) {
	if t.slices == nil {
		return 0, 0, false
	}
	share = int(maphash.Bytes(t.seed, k[:]) % shares)
	at, ok = slices.BinarySearchFunc(t.slices[share], k, func(e entry, k key) int { return bytes.Compare(e.key[:], k[:]) })
	return share, at, ok
}

func (t *table) get(k key) (held, bool) {
	share, at, ok := t.find(k)
	if !ok {
		return held{}, false
	}
	return t.slices[share][at].held, true
}

func (t *table) put(k key, h held) {
	if t.slices == nil {
		t.slices = make([][]entry, shares)
	}
	share, at, ok := t.find(k)
	all := t.slices[share]
	if ok {
		all[at].held = h
		return
	}
	if len(all) == cap(all) { // append would double it
		all = append(make([]entry, 0, len(all)+len(all)/8+1), all...)
	}
	t.slices[share] = slices.Insert(all, at, entry{k, h})
}

func (t *table) remove(k key) {
	if share, at, ok := t.find(k); ok {
		t.slices[share] = slices.Delete(t.slices[share], at, at+1)
	}
}
