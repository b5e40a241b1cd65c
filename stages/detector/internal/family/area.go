package family

import (
	"encoding/binary"
	"math"
	"slices"

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
	last  []uint64  // those of the row above
	rows  [2][]byte // source row i in rows[i%2], padded to a multiple of 8
	lanes []uint32  // sums, in the order of the source's bytes
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
	head, whole, tail uint32 // weight of first, of those between, of last
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

// shrink reads page to its last row and writes it to the planes.
func shrink(page pageimage.Rows, to planes, s *Scratch) error {
	w, h := page.Size()
	words := (3*w + 7) / 8
	s.sums, s.last = sizedTo(s.sums, 4*words), sizedTo(s.last, 4*words)
	for i := range s.rows {
		s.rows[i] = sizedTo(s.rows[i], 8*words)
	}
	s.lanes = sizedTo(s.lanes, 8*words)
	across := s.x.of(w, to.width, to.linear)
	// A lane holds Σ weight·value ≤ 255·2¹⁶; the mean over the span's width
	// multiplies by another 2¹⁶, done in float64's 53 bits.
	var factor [3]float32
	for c := range factor {
		factor[c] = float32(float64(to.scale[c]) / (1 << weightBits) / (1 << weightBits))
	}
	plane := to.width * to.height
	first, second, third := to.dst[:plane], to.dst[plane:2*plane], to.dst[2*plane:3*plane]
	offset := to.offset
	at := -1 // the newest source row in s.rows; the one before it is there too
	reach := func(i int) error {
		for at < i {
			row, err := page.Next()
			if err != nil {
				return err
			}
			at++
			copy(s.rows[at%2], row)
		}
		return nil
	}
	for y, v := range s.y.of(h, to.height, to.linear) {
		clear(s.sums)
		for i := v.first; i <= v.last; i++ {
			if err := reach(int(i)); err != nil {
				return err
			}
			weight := v.whole
			switch i {
			case v.first: // the last one too, where there is only one
				weight = v.head
			case v.last:
				weight = v.tail
			}
			accumulate(s.sums, s.rows[i%2], uint64(weight))
		}
		line := y * to.width
		if y > 0 && slices.Equal(s.sums, s.last) {
			// A third of a page's rows are like the one above: margins
			// and the space between lines.
			for _, p := range [][]float32{first, second, third} {
				copy(p[line:line+to.width], p[line-to.width:line])
			}
			continue
		}
		unpack(s.lanes, s.sums)
		for x, t := range across {
			r, g, b := narrow(s.lanes, t)
			if to.reversed {
				r, b = b, r
			}
			first[line+x] = float32(r)*factor[0] + offset[0]
			second[line+x] = float32(g)*factor[1] + offset[1]
			third[line+x] = float32(b)*factor[2] + offset[2]
		}
		s.sums, s.last = s.last, s.sums
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

// narrow is the weighted sum of the pixels under t, by channel.
func narrow(lanes []uint32, t span) (r, g, b int64) {
	p := lanes[3*t.first : 3*t.last+3]
	w := int64(t.head)
	r, g, b = int64(p[0])*w, int64(p[1])*w, int64(p[2])*w
	if len(p) == 3 {
		return r, g, b
	}
	p = p[3:]
	for w = int64(t.whole); len(p) > 3; p = p[3:] {
		r += int64(p[0]) * w
		g += int64(p[1]) * w
		b += int64(p[2]) * w
	}
	if len(p) == 3 {
		w = int64(t.tail)
		r += int64(p[0]) * w
		g += int64(p[1]) * w
		b += int64(p[2]) * w
	}
	return r, g, b
}

func sizedTo[T any](b []T, n int) []T {
	if cap(b) < n {
		return make([]T, n)
	}
	return b[:n]
}
