package family

import "math"

// openCVBits is OpenCV's INTER_RESIZE_COEF_BITS.
const openCVBits = 11

// openCVTaps are the weights of OpenCV's INTER_LINEAR: the two pixels around
// the centre, whatever lies between. Positions are float32, as there
// (resize.cpp), and weights are rounded half to even. At the page's edges the
// weights across are one pixel's; down they are those of the same row twice,
// and both are rounded.
func openCVTaps(n, m int, down bool) []taps {
	scale := 1 / (float64(m) / float64(n))
	out := make([]taps, m)
	for i := range out {
		at := float32(float64((float64(i)+0.5)*scale) - 0.5)
		first := int(math.Floor(float64(at)))
		part := at - float32(first)
		if !down {
			switch {
			case first < 0:
				first, part = 0, 0
			case first >= n-1:
				first, part = n-1, 0
			}
		}
		const one = 1 << openCVBits
		k := []int32{int32(math.RoundToEven(float64((1 - part) * one))), int32(math.RoundToEven(float64(part * one)))}
		if !down && first == n-1 {
			k = k[:1] // there is no pixel after, and its weight is 0
		}
		out[i] = taps{first: int32(first), k: k}
	}
	return out
}

func openCVAcross(dst []int32, row []byte, across []taps) {
	for x, t := range across {
		var r, g, b int32
		p := row[3*t.first:]
		for _, k := range t.k {
			r += int32(p[0]) * k
			g += int32(p[1]) * k
			b += int32(p[2]) * k
			p = p[3:]
		}
		d := dst[3*x : 3*x+3]
		d[0], d[1], d[2] = r, g, b
	}
}

// openCVDown drops bits in the order in which OpenCV's vector code does.
func openCVDown(dst []byte, rows [][]int32, k []int32) {
	for x := range dst {
		sum := int32(2)
		for i, w := range k {
			sum += rows[i][x] >> 4 * w >> 16
		}
		dst[x] = byte(min(max(sum>>2, 0), 255))
	}
}
