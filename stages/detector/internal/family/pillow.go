package family

import "math"

// pillowBits is Pillow's PRECISION_BITS for 8 bits a channel: weights are
// integers that add up to 1<<22, and each of the two passes, across and then
// down, rounds to 8 bits.
const pillowBits = 32 - 8 - 2

// pillowTaps are the weights of Pillow's BILINEAR: a triangle as wide as two
// pixels of the result, or of the page where that is smaller, so that
// shrinking leaves no pixel out. The order of operations is that of Pillow's
// precompute_coeffs (Resample.c), conversions keep the compiler from fusing
// them, and weights are rounded half up.
func pillowTaps(n, m int, _ bool) []taps {
	scale := float64(n) / float64(m)
	support := math.Max(scale, 1)
	inverse := 1 / support
	out := make([]taps, m)
	weights := make([]float64, 0, int(math.Ceil(support))*2+1)
	for i := range out {
		centre := float64((float64(i) + 0.5) * scale)
		first := max(int(float64(centre-support)+0.5), 0)
		end := min(int(float64(centre+support)+0.5), n)
		weights = weights[:0]
		sum := 0.0
		for x := range end - first {
			distance := math.Abs(float64(float64(float64(x+first)-centre+0.5) * inverse))
			w := math.Max(0, 1-distance)
			weights, sum = append(weights, w), sum+w
		}
		t := taps{first: int32(first), k: make([]int32, len(weights))}
		for x, w := range weights {
			if sum != 0 {
				w /= sum
			}
			t.k[x] = int32(0.5 + float64(w*(1<<pillowBits)))
		}
		out[i] = t
	}
	return out
}

func pillowAcross(dst []int32, row []byte, across []taps) {
	const half = 1 << (pillowBits - 1)
	for x, t := range across {
		r, g, b := int32(half), int32(half), int32(half)
		p := row[3*t.first:]
		for _, k := range t.k {
			r += int32(p[0]) * k
			g += int32(p[1]) * k
			b += int32(p[2]) * k
			p = p[3:]
		}
		d := dst[3*x : 3*x+3]
		d[0], d[1], d[2] = level(r), level(g), level(b)
	}
}

func pillowDown(dst []byte, rows [][]int32, k []int32) {
	for x := range dst {
		sum := int32(1 << (pillowBits - 1))
		for i, w := range k {
			sum += rows[i][x] * w
		}
		dst[x] = byte(level(sum))
	}
}

// level is a sum of weighted 8-bit values, rounded. Weights are rounded one by
// one, so white may come out a little above it.
func level(sum int32) int32 { return min(max(sum>>pillowBits, 0), 255) }
