package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// Digest names what the model computes: sha256, in lower-case hex, of the
// weights' digest and of the manifest's fields that change which boxes come
// out, as JSON with a fixed order of fields. Two deployments that agree on it
// find the same boxes on the same page.
//
// Not part of it: name and version (labels), thresholds (a run's options carry
// them), the execution provider and batches (how, not what). A field added here later
// must be omitted while it has the value that it stood for before, so that
// digests of models that don't use it stay as they are.
func (m Manifest) Digest() (string, error) {
	var options any
	if len(m.Options) > 0 {
		// Decoded and encoded again, so that neither white space nor
		// the order of keys counts. Numbers keep their spelling.
		d := json.NewDecoder(bytes.NewReader(m.Options))
		d.UseNumber()
		if err := d.Decode(&options); err != nil {
			return "", fmt.Errorf("digest of model %s: options: %w", m.Name, err)
		}
	}
	b, err := json.Marshal(struct {
		Weights    string   `json:"weights"`
		Family     string   `json:"family"`
		Input      Input    `json:"input"`
		Classes    []string `json:"classes"`
		ScoreFloor float64  `json:"score_floor"`
		NMS        NMS      `json:"nms"`
		Options    any      `json:"options,omitempty"`
	}{m.SHA256, m.Family, m.Input, m.Classes, m.ScoreFloor, m.NMS, options})
	if err != nil {
		return "", fmt.Errorf("digest of model %s: %w", m.Name, err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// FileDigest is a file's sha256 in lower-case hex, as SHA256 has that of the weights.
func FileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
