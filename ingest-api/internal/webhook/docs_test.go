package webhook_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"leafcutter/deploy/local/localtest"
	"leafcutter/ingest-api/internal/webhook"
	"leafcutter/pkg/fault"
)

// example is the block of a language in docs/webhooks.md.
func example(t *testing.T, language string) string {
	t.Helper()
	text, err := os.ReadFile("../../../docs/webhooks.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(text), "```"+language+"\n")
	block, _, closed := strings.Cut(after, "```\n")
	if !ok || !closed {
		t.Fatalf("docs/webhooks.md has no example in %s", language)
	}
	return block
}

// receive runs an example as a receiver and gives its URL.
func receive(t *testing.T, file, code string, command func(path string) []string) string {
	t.Helper()
	addr := localtest.FreeAddr(t)
	path := filepath.Join(t.TempDir(), file)
	if err := os.WriteFile(path, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	words := command(path)
	c := exec.Command(words[0], words[1:]...)
	c.Env = append(os.Environ(), "LEAFCUTTER_WEBHOOK_SECRET="+secretA, "ADDR="+addr)
	var said strings.Builder
	c.Stdout, c.Stderr = &said, &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = c.Wait() // it is killed
		close(ended)
	}()
	t.Cleanup(func() {
		_ = c.Process.Kill() // it may have ended by itself
		<-ended
	})
	for deadline := time.Now().Add(time.Minute); ; {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
			return "http://" + addr + "/hook"
		}
		select {
		case <-ended:
			t.Fatalf("the receiver ended:\n%s", said.String())
		case <-time.After(20 * time.Millisecond): // between two looks
		}
		if time.Now().After(deadline) {
			t.Fatal("the receiver does not listen")
		}
	}
}

// The examples take what is signed and refuse the rest.
func TestExamplesOfTheDocs(t *testing.T) {
	for _, c := range []struct {
		language, file string
		command        func(path string) []string
	}{
		{"go", "main.go", func(path string) []string {
			program := filepath.Join(filepath.Dir(path), "receiver")
			if out, err := exec.Command("go", "build", "-o", program, path).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			return []string{program}
		}},
		{"python", "receiver.py", func(path string) []string { return []string{"python3", path} }},
	} {
		t.Run(c.language, func(t *testing.T) {
			url := receive(t, c.file, example(t, c.language), c.command)
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			post := func(at time.Time, secrets ...webhook.Secret) error {
				s := webhook.Sender{Client: &http.Client{Transport: transport}, Secrets: secrets, Timeout: time.Minute, Now: func() time.Time { return at }}
				_, err := s.Post(context.Background(), url, "5d6a0b4e-2f0a-5c3b-9d0e-1a2b3c4d5e6f", []byte(`{"type":"RunEnded","title":"Só ☃"}`))
				return err
			}
			now := time.Now()
			for name, try := range map[string]struct {
				err error
				ok  bool
			}{
				"signed":                {post(now, secrets(t, secretA)...), true},
				"signed by two":         {post(now, secrets(t, secretB, secretA)...), true},
				"signed by another":     {post(now, secrets(t, secretB)...), false},
				"not signed":            {post(now), false},
				"played back, too late": {post(now.Add(-10*time.Minute), secrets(t, secretA)...), false},
			} {
				if (try.err == nil) != try.ok || !try.ok && !strings.Contains(fmt.Sprint(try.err), "401") {
					t.Errorf("%s: %v", name, try.err)
				}
				if !try.ok && fault.ClassOf(try.err) != fault.Permanent {
					t.Errorf("%s is tried again", name)
				}
			}
		})
	}
}
