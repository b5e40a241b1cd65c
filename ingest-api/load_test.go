//go:build full && linux

package ingestapi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"leafcutter/deploy/local/localtest"
	"leafcutter/ingest-api/client"
	"leafcutter/pkg/kafka"
	"leafcutter/schemas"
)

// What the load is, and what the process may take of memory under it.
const (
	uploads      = 200
	uploadBytes  = 20 << 20
	atOnce       = 50
	maxResidentK = 60 << 10 // KiB
)

// TestMemoryUnderUploads runs the binary as it is deployed and reads the peak of its resident memory, VmHWM, from the
// kernel.
func TestMemoryUnderUploads(t *testing.T) {
	broker, objects := localtest.StartBroker(t), localtest.StartObjects(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	if _, err := kafka.Apply(ctx, kafka.Config{Brokers: []string{broker.Addr}, SessionTimeout: 10 * time.Second}, schemas.Topics(), 0); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "ingest-api")
	build := exec.Command("go", "build", "-trimpath", "-o", program, "./cmd/ingest-api")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	addr := localtest.FreeAddr(t)
	cmd := exec.Command(program)
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), "LEAFCUTTER_API_ADDR="+addr, "LEAFCUTTER_ADMIN_ADDR=off", "LEAFCUTTER_SPOOL_DIR="+t.TempDir(),
		"KAFKA_BROKERS="+broker.Addr, "AWS_ENDPOINT_URL="+objects.URL, "AWS_ACCESS_KEY_ID="+objects.AccessKey,
		"AWS_SECRET_ACCESS_KEY="+objects.SecretKey, "S3_FORCE_PATH_STYLE=true", "S3_BUCKET="+objects.Bucket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()); err != nil {
			t.Error(err)
		}
	})
	transport := &http.Transport{MaxIdleConnsPerHost: atOnce, ExpectContinueTimeout: time.Second}
	t.Cleanup(transport.CloseIdleConnections)
	api, err := client.New("http://"+addr, client.WithHTTPClient(&http.Client{Transport: transport}))
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		response, err := (&http.Client{Transport: transport}).Get("http://" + addr + "/readyz")
		if err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("not ready within 30 s")
		}
	}
	atStart := resident(t, cmd.Process.Pid)

	began := time.Now()
	var workers sync.WaitGroup
	jobs := make(chan uint64)
	for range atOnce {
		workers.Go(func() {
			for seed := range jobs {
				if _, err := api.Submit(ctx, fmt.Sprintf("load-%d.pdf", seed), document(seed), client.Options{Title: "Load"}); err != nil {
					t.Errorf("upload %d: %v", seed, err)
				}
			}
		})
	}
	for n := range uint64(uploads) {
		jobs <- n
	}
	close(jobs)
	workers.Wait()
	took := time.Since(began)
	peak := resident(t, cmd.Process.Pid)
	t.Logf("%d uploads of %d MiB, %d at a time: %.1f s, %.0f MiB/s; resident %d KiB at start, %d KiB at peak", uploads, uploadBytes>>20, atOnce,
		took.Seconds(), uploads*(uploadBytes>>20)/took.Seconds(), atStart, peak)
	if peak > maxResidentK {
		t.Errorf("resident memory reached %d KiB, more than %d", peak, maxResidentK)
	}
}

// document is a file that begins as a PDF and goes on with noise, the same for the same seed, never held in memory.
func document(seed uint64) io.Reader {
	noise := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	return io.MultiReader(bytes.NewReader([]byte("%PDF-1.7\n")), io.LimitReader(noise, uploadBytes-9))
}

// resident is the peak resident memory of a process in KiB.
func resident(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("the kernel tells no VmHWM")
	return 0
}
