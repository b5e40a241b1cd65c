package pngdec

import "encoding/binary"

// Unfilter undoes in place the filter of one row of pixels of bpp bytes, 1 for grey or 3 for RGB (PNG specification, third
// edition, section 9). above is the row over it, already unfiltered and as long, zeros for the first. It reports false for a
// filter that the specification lacks. The detector, which reads pages by rows (its package pageimage), calls it too.
func Unfilter(filter byte, row, above []byte, bpp int) bool {
	switch filter {
	case 0: // None
	case 1: // Sub
		unSub(row, bpp)
	case 2: // Up
		addRows(row, above)
	case 3: // Average
		unAverage(row, above, bpp)
	case 4: // Paeth
		if bpp == 3 {
			unPaeth3(row, above)
		} else {
			unPaeth(row, above, bpp)
		}
	default:
		return false
	}
	return true
}

// unSub keeps the pixel to the left in registers: read back from the row that it was just written to, it would be waited
// for at each pixel.
func unSub(row []byte, bpp int) {
	if bpp == 1 {
		var left byte
		for i := range row {
			left += row[i]
			row[i] = left
		}
		return
	}
	var r, g, b byte
	for i := 0; i+3 <= len(row); i += 3 {
		p := row[i : i+3 : i+3]
		r, g, b = r+p[0], g+p[1], b+p[2]
		p[0], p[1], p[2] = r, g, b
	}
}

// addRows adds above to row, byte by byte without carry from one to the next, eight at a time: the low seven bits of
// each are added, and the top bits by exclusive or.
func addRows(row, above []byte) {
	const low = 0x7f7f7f7f7f7f7f7f
	above = above[:len(row)]
	i := 0
	for ; i+8 <= len(row); i += 8 {
		a, b := binary.LittleEndian.Uint64(row[i:]), binary.LittleEndian.Uint64(above[i:])
		binary.LittleEndian.PutUint64(row[i:], (a&low+b&low)^(a^b)&^low)
	}
	for ; i < len(row); i++ {
		row[i] += above[i]
	}
}

func unAverage(row, above []byte, bpp int) {
	above = above[:len(row)]
	n := min(bpp, len(row))
	for i := range n {
		row[i] += above[i] / 2
	}
	for i := n; i < len(row); i++ {
		row[i] += byte((int(row[i-bpp]) + int(above[i])) / 2)
	}
}

func unPaeth(row, above []byte, bpp int) {
	above = above[:len(row)]
	n := min(bpp, len(row))
	for i := range n {
		row[i] += above[i]
	}
	for i := n; i < len(row); i++ {
		row[i] += byte(paeth(int32(row[i-bpp]), int32(above[i]), int32(above[i-bpp])))
	}
}

// unPaeth3 is unPaeth for RGB, with the neighbours kept in registers.
func unPaeth3(row, above []byte) {
	above = above[:len(row)]
	var a0, a1, a2, c0, c1, c2 int32
	for i := 0; i+3 <= len(row); i += 3 {
		b0, b1, b2 := int32(above[i]), int32(above[i+1]), int32(above[i+2])
		a0 = (int32(row[i]) + paeth(a0, b0, c0)) & 0xff
		a1 = (int32(row[i+1]) + paeth(a1, b1, c1)) & 0xff
		a2 = (int32(row[i+2]) + paeth(a2, b2, c2)) & 0xff
		row[i], row[i+1], row[i+2] = byte(a0), byte(a1), byte(a2)
		c0, c1, c2 = b0, b1, b2
	}
}

// paeth is whichever of left, above and corner is nearest to left+above-corner, ties in that order.
func paeth(left, above, corner int32) int32 {
	pa, pb := above-corner, left-corner
	pc := abs(pa + pb)
	pa, pb = abs(pa), abs(pb)
	if pa <= pb && pa <= pc {
		return left
	}
	if pb <= pc {
		return above
	}
	return corner
}

func abs(v int32) int32 {
	m := v >> 31
	return (v ^ m) - m
}
