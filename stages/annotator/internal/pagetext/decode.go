// Package pagetext gives each box of a page the text that lies in it: it reads the text lines that the splitter stored
// beside the page image and assigns them. The annotator calls it.
package pagetext

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"leafcutter/schemas"
)

// MaxLines is the number of lines that are looked at; those after them are left out. A newspaper's page has hundreds,
// a hostile one may have millions.
const MaxLines = 50_000

// Decode reads a schemas.PageText. Its lines are read one by one, so that what a hostile file unfolds to in memory is
// bounded by MaxLines and not by its size. Unknown fields are ignored.
func Decode(data []byte) ([]schemas.TextLine, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	lines, err := decode(d)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // inside an object there is always more to come
	}
	if err != nil {
		return nil, fmt.Errorf("not a PageText: %w", err)
	}
	return lines, nil
}

func decode(d *json.Decoder) ([]schemas.TextLine, error) {
	if err := expect(d, '{'); err != nil {
		return nil, err
	}
	var lines []schemas.TextLine
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		if name != "lines" {
			var other json.RawMessage
			if err := d.Decode(&other); err != nil {
				return nil, err
			}
			continue
		}
		switch begin, err := d.Token(); {
		case err != nil:
			return nil, err
		case begin == nil: // null is an empty list
			continue
		case begin != json.Delim('['):
			return nil, fmt.Errorf("%v where [ is expected", begin)
		}
		for d.More() {
			if len(lines) == MaxLines {
				return lines, nil
			}
			var line schemas.TextLine
			if err := d.Decode(&line); err != nil {
				return nil, err
			}
			lines = append(lines, line)
		}
		if err := expect(d, ']'); err != nil {
			return nil, err
		}
	}
	if err := expect(d, '}'); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows it")
	}
	return lines, nil
}

// expect takes the next token, which must be want.
func expect(d *json.Decoder, want json.Delim) error {
	got, err := d.Token()
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%v where %v is expected", got, want)
	}
	return nil
}
