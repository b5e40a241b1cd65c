package family

import (
	"bytes"
	"encoding/binary"
	"math"

	"leafcutter/stages/detector/internal/pageimage"
)

// A pixel of the result is a weighted mean of source pixels that lie side by
// side. By area, these are all that lie under it, border pixels weighted by the
// part that is covered (what OpenCV calls INTER_AREA); linear.go has the other
// choice. The mean is computed exactly up to weights of 16 bits, one source row
// at a time: rows are first summed into the result row that they belong to,
// in integers, two 32-bit lanes to a machine word, and only the sum is then
// narrowed to the result's width. The second, dearer step runs once per row of
// the result.

// Scratch is memory that Preprocess reuses. The zero value is ready. It is not
// for concurrent use.
type Scratch struct {
	sums  []uint64  // of one result row: 4 words for every 8 bytes of source
	rows  [2][]byte // source row i in rows[i%2], padded to a multiple of 8
	lanes []uint32  // sums, in the order of the source's bytes
	line  []float32 // one channel of lanes, narrowed to the result's width
	x, y  axis
	eight eightBitScratch // of the families that shrink to 8 bits
}

const weightBits = 16

// span is the part of a source axis that makes one result pixel: from first to
// last, with one weight for all but both ends. Weights add up to
// 1<<weightBits. From one span to the next, first and last never fall, and
// first falls behind the last before it by one pixel at most.
type span struct {
	first, last       int32
	head, whole, tail uint32 // weight of first, of those between, of last; where first is last, head is all
}

// spans divides n source pixels evenly among m result pixels.
func spans(n, m int) []span {
	out := make([]span, m)
	scale := float64(n) / float64(m)
	const one = 1 << weightBits
	for i := range out {
		lo, hi := float64(i)*scale, float64(i+1)*scale
		// A border that falls on a pixel's edge but for rounding is on it.
		const eps = 1e-6
		first, last := int(math.Floor(lo+eps)), int(math.Ceil(hi-eps))-1
		first, last = min(first, n-1), min(max(last, first), n-1)
		s := span{first: int32(first), last: int32(last)}
		if first == last {
			s.head = one
		} else {
			s.whole = uint32(one / scale)
			s.head = uint32((float64(first+1) - lo) / scale * one)
			// Both were rounded down, and the rest is the last pixel's:
			// never negative, and white stays white.
			s.tail = one - s.head - s.whole*uint32(last-first-1)
		}
		out[i] = s
	}
	return out
}

// axis keeps the spans of one axis for as long as pages have the same size.
type axis struct {
	n, m   int
	linear bool
	spans  []span
}

func (a *axis) of(n, m int, linear bool) []span {
	if a.n != n || a.m != m || a.linear != linear {
		divide := spans
		if linear {
			divide = linearSpans
		}
		*a = axis{n: n, m: m, linear: linear, spans: divide(n, m)}
	}
	return a.spans
}

// planes is where a shrunken page goes: three planes of width × height values,
// one a channel, each value·scale + offset for a mean of 0 to 255. reversed
// puts blue first, linear chooses between linear and area interpolation.
type planes struct {
	dst           []float32
	width, height int
	scale, offset [3]float32 // in the order of the planes
	reversed      bool
	linear        bool
}

// row is row y of a plane.
func (p planes) row(plane, y int) []float32 {
	at := (plane*p.height + y) * p.width
	return p.dst[at : at+p.width]
}

// put writes row y of a channel's plane from what narrow made of it.
func (p planes) put(channel, y int, line []float32) {
	plane := channel
	if p.reversed {
		plane = 2 - channel
	}
	scale := float32(float64(p.scale[plane]) / (1 << weightBits) / (1 << weightBits))
	offset := p.offset[plane]
	row := p.row(plane, y)
	for x, v := range line[:len(row)] {
		row[x] = v*scale + offset
	}
}

// repeat makes row y of every plane as the row above.
func (p planes) repeat(y int) {
	for plane := range p.scale {
		copy(p.row(plane, y), p.row(plane, y-1))
	}
}

// shrink reads page to its last row and writes it to the planes. A grey page is
// summed and narrowed in its one channel, from which every plane is written.
func shrink(page pageimage.Rows, to planes, s *Scratch) error {
	w, h := page.Size()
	channels := page.Channels()
	words := (channels*w + 7) / 8
	s.sums, s.lanes = sizedTo(s.sums, 4*words), sizedTo(s.lanes, 8*words)
	for i := range s.rows {
		s.rows[i] = sizedTo(s.rows[i], 8*words)
	}
	s.line = sizedTo(s.line, to.width)
	across := s.x.of(w, to.width, to.linear)
	at := -1   // the newest source row in s.rows; the one before it is there too
	since := 0 // from this source row to the newest they are all the same
	reach := func(i int) error {
		for at < i {
			row, err := page.Next()
			if err != nil {
				return err
			}
			at++
			if at == 0 || !bytes.Equal(row, s.rows[(at-1)%2][:len(row)]) {
				since = at
			}
			copy(s.rows[at%2], row)
		}
		return nil
	}
	down := s.y.of(h, to.height, to.linear)
	for y, v := range down {
		clear(s.sums)
		due := uint64(0) // weight of the newest row and those like it, not in the sums yet
		for i := int(v.first); i <= int(v.last); i++ {
			if err := reach(i); err != nil {
				return err
			}
			if due > 0 && since == i { // another than the row before
				accumulate(s.sums, s.rows[(i-1)%2], due)
				due = 0
			}
			switch i {
			case int(v.first): // the last one too, where there is only one
				due += uint64(v.head)
			case int(v.last):
				due += uint64(v.tail)
			default:
				due += uint64(v.whole)
			}
		}
		if y > 0 && since <= int(down[y-1].first) {
			// Under this row and the one above all are the same, as a third
			// of a page's are: margins and the space between lines.
			to.repeat(y)
			continue
		}
		accumulate(s.sums, s.rows[v.last%2], due)
		unpack(s.lanes, s.sums)
		for c := range 3 {
			if c < channels {
				narrow(s.line, s.lanes[c:], across, channels)
			}
			to.put(c, y, s.line)
		}
	}
	return reach(h - 1) // linear interpolation may need none of the last rows; a page that is damaged there is damaged
}

// accumulate adds weight × row to the sums. Byte k of each group of eight goes
// to the low (k < 4) or high (k ≥ 4) lane of word k mod 4.
func accumulate(sums []uint64, row []byte, weight uint64) {
	const mask = 0x000000ff_000000ff
	for len(row) >= 8 && len(sums) >= 4 {
		v := binary.LittleEndian.Uint64(row)
		sums[0] += (v & mask) * weight
		sums[1] += (v >> 8 & mask) * weight
		sums[2] += (v >> 16 & mask) * weight
		sums[3] += (v >> 24 & mask) * weight
		row, sums = row[8:], sums[4:]
	}
}

// unpack puts the lanes in the order of the bytes that they are sums of.
func unpack(lanes []uint32, sums []uint64) {
	for len(lanes) >= 8 && len(sums) >= 4 {
		a, b, c, d := sums[0], sums[1], sums[2], sums[3]
		lanes[0], lanes[1], lanes[2], lanes[3] = uint32(a), uint32(b), uint32(c), uint32(d)
		lanes[4], lanes[5], lanes[6], lanes[7] = uint32(a>>32), uint32(b>>32), uint32(c>>32), uint32(d>>32)
		lanes, sums = lanes[8:], sums[4:]
	}
}

// narrow makes dst the weighted sums of the pixels under each span, in the
// channel that lanes begins with, one of so many. A lane holds Σ weight·value ≤
// 255·2¹⁶, and weights across multiply by another 2¹⁶: integers do it exactly,
// and float32 rounds once.
func narrow(dst []float32, lanes []uint32, across []span, channels int) {
	for x, t := range across[:len(dst)] {
		i, last := channels*int(t.first), channels*int(t.last)
		sum := int64(lanes[i])*int64(t.head) + int64(lanes[last])*int64(t.tail)
		for i += channels; i < last; i += channels {
			sum += int64(lanes[i]) * int64(t.whole)
		}
		dst[x] = float32(sum)
	}
}

func sizedTo[T any](b []T, n int) []T {
	if cap(b) < n {
		return make([]T, n)
	}
	return b[:n]
}
