package deadletters

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestEveryCodeIsExplained(t *testing.T) {
	source, err := os.ReadFile("replay.go")
	if err != nil {
		t.Fatal(err)
	}
	documented, err := os.ReadFile("../../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	codes := regexp.MustCompile(`Code\w+\s*=\s*"([a-z-]+)"`).FindAllSubmatch(source, -1)
	if len(codes) < 5 {
		t.Errorf("only %d codes were found: does the pattern still fit the code?", len(codes))
	}
	for _, m := range codes {
		if !strings.Contains(string(documented), "`"+string(m[1])+"`") {
			t.Errorf("docs/errors.md does not explain %q", m[1])
		}
	}
}

// Only topics that hold work take replays: whoever can write a letter could have the API write to any other.
func TestWhichTopicsTakeReplays(t *testing.T) {
	for topic, want := range map[string]bool{
		"documents": true, "page-ranges": true, "page-ranges.bulk": true, "pages.layout_cdla": true, "pages.layout_cdla.bulk": true,
		"detections": true, "results": true, "document-events": true, "controls": true,
		"": false, "dead-letters": false, "models": false, "documents.bulk": false, "results.bulk": false, "pages.": false, "pages..bulk": false,
		"pages.A B": false, "pages": false, "__consumer_offsets": false, "page-ranges.bulk.bulk": false,
	} {
		if got := takesReplays(topic); got != want {
			t.Errorf("%q: %v", topic, got)
		}
	}
}

func TestContent(t *testing.T) {
	for name, c := range map[string]struct {
		value     string
		shown     bool
		mediaType string
	}{
		"nothing": {"", false, ""},
		"JSON":    {`{"a":[1]}`, true, "application/json"},
		"large":   {`"` + strings.Repeat("a", maxShown) + `"`, false, "application/json"},
		"PDF":     {"%PDF-1.7\n\xff", false, "application/pdf"},
		"text":    {"not {json", false, "text/plain; charset=utf-8"},
		"bytes":   {"\x00\xff\xfe", false, "application/octet-stream"},
	} {
		shown, mediaType := content([]byte(c.value))
		if (shown != nil) != c.shown || mediaType != c.mediaType {
			t.Errorf("%s: %v, %s", name, shown != nil, mediaType)
		}
	}
}
