package family

import "math"

// linearSpans are spans of two pixels, those around the centre of each of the m
// result pixels, weighted by how near it is: linear interpolation as in
// OpenCV's INTER_LINEAR. Shrinking by 1.5 it leaves some pixels out and keeps
// others sharp, as models are often trained; area interpolation blurs all.
func linearSpans(n, m int) []span {
	out := make([]span, m)
	scale := float64(n) / float64(m)
	const one = 1 << weightBits
	for i := range out {
		centre := min(max((float64(i)+0.5)*scale-0.5, 0), float64(n-1))
		first := math.Floor(centre)
		tail := uint32(math.Round((centre - first) * one))
		s := span{first: int32(first), last: int32(first), head: one}
		switch {
		case tail == one:
			s.first, s.last = s.first+1, s.first+1
		case tail > 0:
			s.last, s.head, s.tail = s.first+1, one-tail, tail
		}
		out[i] = s
	}
	return out
}
