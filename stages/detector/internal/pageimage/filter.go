package pageimage

import "encoding/binary"

// unfilter undoes a row's filter in place (PNG specification, third edition,
// section 9). prev is the row above, zeros for the first. It reports whether
// the filter exists.
func unfilter(filter byte, cur, prev []byte, bpp int) bool {
	switch filter {
	case 0:
	case 1:
		for i := bpp; i < len(cur); i++ {
			cur[i] += cur[i-bpp]
		}
	case 2:
		addBytes(cur, prev)
	case 3:
		unAverage(cur, prev, bpp)
	case 4:
		if bpp == 3 {
			unPaeth3(cur, prev)
		} else {
			unPaeth(cur, prev, bpp)
		}
	default:
		return false
	}
	return true
}

// addBytes adds b to a, byte by byte, eight at a time: the low seven bits of
// each byte cannot carry into the next one, and the top bits add without a
// carry.
func addBytes(a, b []byte) {
	const low = 0x7f7f7f7f7f7f7f7f
	b = b[:len(a)]
	i := 0
	for ; i+8 <= len(a); i += 8 {
		x, y := binary.LittleEndian.Uint64(a[i:]), binary.LittleEndian.Uint64(b[i:])
		binary.LittleEndian.PutUint64(a[i:], (x&low+y&low)^(x^y)&^low)
	}
	for ; i < len(a); i++ {
		a[i] += b[i]
	}
}

func unAverage(cur, prev []byte, bpp int) {
	prev = prev[:len(cur)]
	n := min(bpp, len(cur))
	for i := range n {
		cur[i] += prev[i] / 2
	}
	for i := n; i < len(cur); i++ {
		cur[i] += byte((int(cur[i-bpp]) + int(prev[i])) / 2)
	}
}

func unPaeth(cur, prev []byte, bpp int) {
	prev = prev[:len(cur)]
	n := min(bpp, len(cur))
	for i := range n {
		cur[i] += prev[i]
	}
	for i := n; i < len(cur); i++ {
		cur[i] += byte(paeth(int32(cur[i-bpp]), int32(prev[i]), int32(prev[i-bpp])))
	}
}

// unPaeth3 is unPaeth for RGB, with the neighbours kept in registers.
func unPaeth3(cur, prev []byte) {
	prev = prev[:len(cur)]
	var a0, a1, a2, c0, c1, c2 int32
	for i := 0; i+3 <= len(cur); i += 3 {
		b0, b1, b2 := int32(prev[i]), int32(prev[i+1]), int32(prev[i+2])
		a0 = (int32(cur[i]) + paeth(a0, b0, c0)) & 0xff
		a1 = (int32(cur[i+1]) + paeth(a1, b1, c1)) & 0xff
		a2 = (int32(cur[i+2]) + paeth(a2, b2, c2)) & 0xff
		cur[i], cur[i+1], cur[i+2] = byte(a0), byte(a1), byte(a2)
		c0, c1, c2 = b0, b1, b2
	}
}

// paeth is whichever of left, above and upper left is nearest to left + above
// - upper left; ties go in that order.
func paeth(a, b, c int32) int32 {
	pa, pb := b-c, a-c
	pc := abs(pa + pb)
	pa, pb = abs(pa), abs(pb)
	if pa <= pb && pa <= pc {
		return a
	}
	if pb <= pc {
		return b
	}
	return c
}

func abs(v int32) int32 {
	m := v >> 31
	return (v ^ m) - m
}
