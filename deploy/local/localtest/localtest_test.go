package localtest_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"leafcutter/deploy/local/localtest"
)

func TestServersAnswerAndComeBack(t *testing.T) {
	sql := localtest.StartSQL(t)
	objects := localtest.StartObjects(t)
	broker := localtest.StartBroker(t)
	for range 2 {
		if got := get(t, sql.URL+"/?query=SELECT+1"); got != "1\n" {
			t.Errorf("SELECT 1 answers %q", got)
		}
		get(t, objects.URL+"/livez")
		conn, err := net.Dial("tcp", broker.Addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
		for _, s := range []*localtest.Server{sql.Server, objects.Server, broker.Server} {
			addr := s.Addr
			s.Kill()
			s.Restart()
			if s.Addr != addr {
				t.Errorf("restarted on %s, was on %s", s.Addr, addr)
			}
		}
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s answers %s: %s", strings.Split(url, "?")[0], resp.Status, body)
	}
	return string(body)
}
