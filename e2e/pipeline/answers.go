package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// Box is a row of the view detections.
type Box struct {
	Page         uint32  `ch:"page"`
	K            uint32  `ch:"k"`
	Class        string  `ch:"class"`
	Score        float64 `ch:"score"`
	X0           float64 `ch:"x0"`
	Y0           float64 `ch:"y0"`
	X1           float64 `ch:"x1"`
	Y1           float64 `ch:"y1"`
	Width        uint32  `ch:"width"`
	Height       uint32  `ch:"height"`
	Text         string  `ch:"text"`
	CropKey      string  `ch:"crop_key"`
	ImageKey     string  `ch:"image_key"`
	AnnotatedKey string  `ch:"annotated_key"`
}

// Select asks by clickhouse-go as anyone on this machine may: over HTTP, without a password.
func (p *Pipeline) Select(ctx context.Context, dest any, query string, args ...any) error {
	conn, err := clickhouse.Open(&clickhouse.Options{
		Protocol: clickhouse.HTTP, Addr: []string{strings.TrimPrefix(p.SQL, "http://")},
		Auth: clickhouse.Auth{Database: "leafcutter", Username: "default"},
	})
	if err != nil {
		return fmt.Errorf("open ClickHouse: %w", err)
	}
	err = conn.Select(ctx, dest, query, args...)
	if closing := conn.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return fmt.Errorf("ask %q: %w", query, err)
	}
	return nil
}

// Boxes are all rows of a document in the view detections, by page and number.
func (p *Pipeline) Boxes(ctx context.Context, documentID string) ([]Box, error) {
	var boxes []Box
	err := p.Select(ctx, &boxes, `SELECT page, toUInt32(k) AS k, class, score, x0, y0, x1, y1, width, height, text, crop_key, image_key, annotated_key
		FROM detections WHERE document_id = ? ORDER BY run_id, page, k`, documentID)
	return boxes, err
}

// Found is what was found on a document as a list that holds no identity of document or run: two submissions of the same
// bytes give equal lists. Keys are replaced by the digests of the objects that they name.
func (p *Pipeline) Found(ctx context.Context, documentID string) ([]Box, error) {
	boxes, err := p.Boxes(ctx, documentID)
	if err != nil {
		return nil, err
	}
	digests := map[string]string{"": ""}
	for i := range boxes {
		for _, key := range []*string{&boxes[i].CropKey, &boxes[i].ImageKey, &boxes[i].AnnotatedKey} {
			if _, known := digests[*key]; !known {
				object, err := p.Objects.Get(ctx, *key, 64<<20)
				if err != nil {
					return nil, err
				}
				sum := sha256.Sum256(object)
				digests[*key] = hex.EncodeToString(sum[:])
			}
			*key = digests[*key]
		}
	}
	return boxes, nil
}

// Curl asks by a plain GET, as curl does, and gives status and body.
func (p *Pipeline) Curl(ctx context.Context, query string) (int, string, error) {
	return p.Get(ctx, p.SQL+"/?"+url.Values{"database": {"leafcutter"}, "query": {query}}.Encode())
}

// Get is a plain GET of any address.
func (p *Pipeline) Get(ctx context.Context, at string) (int, string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return 0, "", fmt.Errorf("make the request: %w", err)
	}
	response, err := p.http.Do(request)
	if err != nil {
		return 0, "", fmt.Errorf("get %s: %w", at, err)
	}
	defer func() { _ = response.Body.Close() }() // read to its end, or the error says why not
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, "", fmt.Errorf("read %s: %w", at, err)
	}
	return response.StatusCode, string(body), nil
}

// Answers is every row that SQL knows of the documents given, as text: equal texts are equal answers. What a row says of
// its own writing (version) is left out.
func (p *Pipeline) Answers(ctx context.Context, documentIDs ...string) (string, error) {
	ids := slices.Clone(documentIDs)
	slices.Sort(ids)
	in := " WHERE document_id IN ('" + strings.Join(ids, "','") + "')"
	var b strings.Builder
	for _, question := range []string{
		"SELECT * EXCEPT (version) FROM documents FINAL" + in + " ORDER BY ALL",
		"SELECT * EXCEPT (version, decision) FROM runs FINAL" + in + " ORDER BY ALL",
		"SELECT * EXCEPT (version) FROM page_results FINAL" + in + " ORDER BY document_id, run_id, page",
		"SELECT * FROM detections" + in + " ORDER BY document_id, run_id, page, k",
		"SELECT * FROM document_status" + in + " ORDER BY document_id",
		"SELECT * FROM failures" + in + " ORDER BY document_id, run_id, page",
	} {
		status, body, err := p.Curl(ctx, question+" FORMAT TSVWithNames")
		if err != nil {
			return "", err
		}
		if status != http.StatusOK {
			return "", fmt.Errorf("%s: status %d: %s", question, status, body)
		}
		b.WriteString(body)
	}
	return b.String(), nil
}
