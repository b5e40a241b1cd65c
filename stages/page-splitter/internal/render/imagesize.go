package render

import (
	"encoding/binary"
	"errors"

	"leafcutter/pkg/filetype"
)

// errImageHeader says that an image's header cannot be read as far as its size.
var errImageHeader = errors.New("the image header is broken")

// imageSizes returns width and height in pixels of each page of an image file,
// read from its headers alone, before any decoder sees it. At most limit pages
// are looked at.
func imageSizes(data []byte, kind filetype.Type, limit int) ([][2]int, error) {
	switch kind {
	case filetype.PNG:
		return one(pngSize(data))
	case filetype.JPEG:
		return one(jpegSize(data))
	case filetype.TIFF:
		return tiffSizes(data, limit)
	}
	return nil, errImageHeader
}

func one(width, height int) ([][2]int, error) {
	if width <= 0 || height <= 0 {
		return nil, errImageHeader
	}
	return [][2]int{{width, height}}, nil
}

// pngSize reads IHDR, which has to be the first chunk.
func pngSize(data []byte) (width, height int) {
	if len(data) < 24 || string(data[12:16]) != "IHDR" {
		return 0, 0
	}
	return int(binary.BigEndian.Uint32(data[16:])), int(binary.BigEndian.Uint32(data[20:]))
}

// jpegSize walks the marker segments up to the first frame header (ITU-T T.81,
// B.2.2).
func jpegSize(data []byte) (width, height int) {
	for i := 2; i+4 <= len(data); {
		if data[i] != 0xff {
			return 0, 0
		}
		marker := data[i+1]
		switch {
		case marker == 0xff: // fill byte
			i++
			continue
		case marker == 0x01 || marker >= 0xd0 && marker <= 0xd7: // stand alone
			i += 2
			continue
		case marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc:
			if i+9 > len(data) {
				return 0, 0
			}
			return int(binary.BigEndian.Uint16(data[i+7:])), int(binary.BigEndian.Uint16(data[i+5:]))
		case marker == 0xd9 || marker == 0xda: // end of image, start of scan: no frame header came
			return 0, 0
		}
		length := int(binary.BigEndian.Uint16(data[i+2:]))
		if length < 2 {
			return 0, 0
		}
		i += 2 + length
	}
	return 0, 0
}

// tiffSizes walks the chain of image file directories (TIFF 6.0, section 2).
func tiffSizes(data []byte, limit int) ([][2]int, error) {
	if len(data) < 8 {
		return nil, errImageHeader
	}
	var order binary.ByteOrder = binary.LittleEndian
	if data[0] == 'M' {
		order = binary.BigEndian
	}
	var (
		sizes [][2]int
		seen  = map[uint32]bool{}
	)
	for at := order.Uint32(data[4:]); at != 0 && len(sizes) < limit; {
		if seen[at] || uint64(at)+2 > uint64(len(data)) {
			return nil, errImageHeader
		}
		seen[at] = true
		count := int(order.Uint16(data[at:]))
		entries := data[at+2:]
		if len(entries) < 12*count+4 {
			return nil, errImageHeader
		}
		var size [2]int
		for i := range count {
			entry := entries[12*i:]
			if tag := order.Uint16(entry); tag == 256 || tag == 257 { // ImageWidth, ImageLength
				switch order.Uint16(entry[2:]) {
				case 3: // SHORT
					size[tag-256] = int(order.Uint16(entry[8:]))
				case 4: // LONG
					size[tag-256] = int(order.Uint32(entry[8:]))
				}
			}
		}
		if size[0] <= 0 || size[1] <= 0 {
			return nil, errImageHeader
		}
		sizes = append(sizes, size)
		at = order.Uint32(entries[12*count:])
	}
	if len(sizes) == 0 {
		return nil, errImageHeader
	}
	return sizes, nil
}
