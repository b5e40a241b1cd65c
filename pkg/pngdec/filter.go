package pngdec

import "encoding/binary"

// unfilter undoes the filter of one row of 3-byte pixels (PNG specification, third edition, section 9.2). above is the
// row over it, already unfiltered, zeros for the first. It reports false for a filter that the specification lacks.
func unfilter(kind byte, row, above []byte) bool {
	above = above[:len(row)]
	switch kind {
	case 0: // None
	case 1: // Sub
		var r, g, b byte
		for i := 0; i+3 <= len(row); i += 3 {
			p := row[i : i+3 : i+3]
			r, g, b = r+p[0], g+p[1], b+p[2]
			p[0], p[1], p[2] = r, g, b
		}
	case 2: // Up
		addRows(row, above)
	case 3: // Average
		var r, g, b byte
		for i := 0; i+3 <= len(row); i += 3 {
			p, q := row[i:i+3:i+3], above[i:i+3:i+3]
			r = p[0] + byte((int(r)+int(q[0]))/2)
			g = p[1] + byte((int(g)+int(q[1]))/2)
			b = p[2] + byte((int(b)+int(q[2]))/2)
			p[0], p[1], p[2] = r, g, b
		}
	case 4: // Paeth
		var left, corner [3]byte
		for i := 0; i+3 <= len(row); i += 3 {
			p, q := row[i:i+3:i+3], above[i:i+3:i+3]
			for c := range 3 {
				left[c] = p[c] + paeth(left[c], q[c], corner[c])
				corner[c] = q[c]
				p[c] = left[c]
			}
		}
	default:
		return false
	}
	return true
}

// addRows adds above to row, byte by byte without carry from one to the next, eight at a time: the low seven bits of
// each are added, and the top bits by exclusive or.
func addRows(row, above []byte) {
	const low = 0x7f7f7f7f7f7f7f7f
	i := 0
	for ; i+8 <= len(row); i += 8 {
		a, b := binary.LittleEndian.Uint64(row[i:]), binary.LittleEndian.Uint64(above[i:])
		binary.LittleEndian.PutUint64(row[i:], (a&low+b&low)^(a^b)&^low)
	}
	for ; i < len(row); i++ {
		row[i] += above[i]
	}
}

// paeth is whichever of left, above and corner is nearest to left+above-corner, ties in that order.
func paeth(left, above, corner byte) byte {
	a, b, c := int(left), int(above), int(corner)
	pa, pb := b-c, a-c
	pc := pa + pb
	pa, pb, pc = max(pa, -pa), max(pb, -pb), max(pc, -pc)
	if pa <= pb && pa <= pc {
		return left
	}
	if pb <= pc {
		return above
	}
	return corner
}
