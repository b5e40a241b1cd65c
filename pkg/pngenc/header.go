package pngenc

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
)

// Header is what the first bytes of a PNG say.
type Header struct {
	Width, Height int // pixels
	DPI           int // dots per inch; 0 where the image says nothing
}

// ErrHeader says that a file does not begin as a PNG does.
var ErrHeader = errors.New("pngenc: not a PNG")

// headerSize reaches to the end of the pHYs chunk, where there is one: signature
// 8 bytes, IHDR 25, pHYs 21.
const headerSize = 8 + 25 + 21

// ReadHeader reads the size of an image, and the resolution that an [Encoder] has
// given it, from the first 54 bytes of the file: enough to describe an object
// without fetching it.
func ReadHeader(r io.Reader) (Header, error) {
	head := make([]byte, headerSize)
	if _, err := io.ReadFull(r, head); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = ErrHeader
		}
		return Header{}, err
	}
	if string(head[:8]) != "\x89PNG\r\n\x1a\n" || string(head[12:16]) != "IHDR" {
		return Header{}, ErrHeader
	}
	width, height := binary.BigEndian.Uint32(head[16:]), binary.BigEndian.Uint32(head[20:])
	if width == 0 || height == 0 || width > maxSide || height > maxSide {
		return Header{}, ErrHeader
	}
	h := Header{Width: int(width), Height: int(height)}
	if physical := head[33:]; string(physical[4:8]) == "pHYs" && physical[16] == 1 {
		h.DPI = int(math.Round(float64(binary.BigEndian.Uint32(physical[8:])) * metresPerInch))
	}
	return h, nil
}
