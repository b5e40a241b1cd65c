package program

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// adminConfig is where a program answers its operators.
type adminConfig struct {
	Addr string `env:"LEAFCUTTER_ADMIN_ADDR" desc:"host:port of /livez, /readyz, /metrics and /debug/pprof; port 0 takes a free one; off for none"`
	File string `env:"LEAFCUTTER_ADMIN_FILE" desc:"file into which the address is written once the admin server listens, for supervisors"`
}

// off is the address that means none.
const off = "off"

// Validate tells a bad address before anything has started.
func (c adminConfig) Validate() error {
	if c.Addr == off {
		return nil
	}
	if _, _, err := net.SplitHostPort(c.Addr); err != nil {
		return fmt.Errorf("LEAFCUTTER_ADMIN_ADDR: %q is neither host:port nor off", c.Addr)
	}
	return nil
}

// admin is the server of one program.
type admin struct {
	addr   string // "" if off
	file   string
	server *http.Server
	served chan error
}

// startAdmin listens and answers. When it returns the address is in the file, so a supervisor never reads an early one.
func startAdmin(cfg adminConfig, p *Program) (*admin, error) {
	a := &admin{file: cfg.File, served: make(chan error, 1)}
	if cfg.Addr == off {
		return a, nil
	}
	listener, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("admin server: %w (LEAFCUTTER_ADMIN_ADDR chooses another address)", err)
	}
	a.addr = listener.Addr().String()
	if err := writeAtomically(a.file, a.addr+"\n"); err != nil {
		return nil, errors.Join(fmt.Errorf("admin server: %w", err), listener.Close())
	}
	a.server = &http.Server{
		Handler:           routes(p),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          slog.NewLogLogger(p.Logger.Handler(), slog.LevelWarn),
	}
	go func() { a.served <- a.server.Serve(listener) }()
	return a, nil
}

func routes(p *Program) http.Handler {
	mux := http.NewServeMux()
	p.Health.Routes(mux)
	mux.Handle("GET /metrics", p.Telemetry.MetricsHandler())
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, "%s %s\n/livez /readyz /metrics /debug/pprof/\n", p.Name, p.Version)
	})
	return mux
}

// stop lets answers in flight end for a second, then closes.
func (a *admin) stop() error {
	if a.server == nil {
		return nil
	}
	if a.file != "" {
		_ = os.Remove(a.file) // a stale address misleads for a moment at most; the next start writes its own
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := a.server.Shutdown(ctx); err != nil {
		err = a.server.Close()
		if err != nil {
			return fmt.Errorf("admin server: close: %w", err)
		}
	}
	if err := <-a.served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin server: %w", err)
	}
	return nil
}

// askReady asks the running instance whether it is ready: this is -health, for images that have no shell and no curl.
func askReady(cfg adminConfig, out io.Writer) error {
	addr, err := cfg.reachable()
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + addr + "/readyz")
	if err != nil {
		return fmt.Errorf("not running: %w", err)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return fmt.Errorf("read the answer of %s: %w", addr, err)
	}
	if response.StatusCode == http.StatusOK {
		_, err := fmt.Fprintln(out, "ready")
		return err
	}
	var report Report
	if err := json.Unmarshal(body, &report); err != nil {
		return fmt.Errorf("%s answers %s", addr, response.Status)
	}
	faults := []error{errors.New("not ready")}
	for _, c := range report.Checks {
		if !c.OK {
			faults = append(faults, fmt.Errorf("%s: %s", c.Name, c.Reason))
		}
	}
	return errors.Join(faults...)
}

// reachable is the address to ask: that of the file where there is one, and this machine where it is that of all
// interfaces.
func (c adminConfig) reachable() (string, error) {
	addr := c.Addr
	if c.File != "" {
		text, err := os.ReadFile(c.File)
		if err != nil {
			return "", fmt.Errorf("not running: %w", err)
		}
		addr = strings.TrimSpace(string(text))
	}
	if addr == off {
		return "", errors.New("LEAFCUTTER_ADMIN_ADDR is off: nobody to ask")
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("LEAFCUTTER_ADMIN_ADDR: %w", err)
	}
	if port == "0" {
		return "", errors.New("LEAFCUTTER_ADMIN_ADDR has port 0: LEAFCUTTER_ADMIN_FILE has to tell which was taken")
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port), nil
}

// writeAtomically writes a file that is read by others: they see the whole text or none. An empty name is none.
func writeAtomically(name, text string) error {
	if name == "" {
		return nil
	}
	scratch, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*")
	if err != nil {
		return fmt.Errorf("write address: %w", err)
	}
	_, err = scratch.WriteString(text)
	if err = errors.Join(err, scratch.Close()); err == nil {
		err = os.Rename(scratch.Name(), name)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write address: %w", err), os.Remove(scratch.Name()))
	}
	return nil
}
