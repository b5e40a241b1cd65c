package program

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
)

// Health knows what a program still waits for. Stages register a check for each thing that they cannot do without:
// partitions assigned, model warm, server reachable. It is safe for any number of goroutines.
type Health struct {
	mu       sync.Mutex
	ready    map[string]func() error
	live     map[string]func() error
	stopping bool
}

// Report is the body of /readyz and /livez.
type Report struct {
	Status string  `json:"status"` // ready, not-ready, or alive, not-alive
	Checks []Check `json:"checks"` // sorted by name
}

// Check is one line of a report.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"` // why not, and what to do
}

// NewHealth makes one that is not ready until the first check has been registered.
func NewHealth() *Health {
	return &Health{ready: map[string]func() error{}, live: map[string]func() error{}}
}

// Register adds a condition of being ready, or replaces the one of that name. check is called at every question, maybe
// by several goroutines at once: it tells what it knows and asks nobody.
func (h *Health) Register(name string, check func() error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ready[name] = check
}

// RegisterLive adds a condition of being alive. Where it fails an orchestrator restarts the process, so it is for what
// a restart cures: a handler that hangs, never a server that is away.
func (h *Health) RegisterLive(name string, check func() error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.live[name] = check
}

// Stop makes it not ready for good: the process is on its way out.
func (h *Health) Stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopping = true
}

// Ready tells whether the program can do its work, and if not, why.
func (h *Health) Ready() (Report, bool) {
	h.mu.Lock()
	checks, stopping := snapshot(h.ready), h.stopping
	h.mu.Unlock()
	report, ok := ask(checks)
	if len(report.Checks) == 0 {
		ok = false
		report.Checks = []Check{{Name: "start", Reason: "starting"}}
	}
	if stopping {
		ok = false
		report.Checks = append(report.Checks, Check{Name: "stop", Reason: "stopping"})
	}
	report.Status = "not-ready"
	if ok {
		report.Status = "ready"
	}
	return report, ok
}

// Live tells whether a restart would help.
func (h *Health) Live() (Report, bool) {
	h.mu.Lock()
	checks := snapshot(h.live)
	h.mu.Unlock()
	report, ok := ask(checks)
	report.Status = "not-alive"
	if ok {
		report.Status = "alive"
	}
	return report, ok
}

// Routes adds /livez, its alias /healthz, and /readyz to mux. They answer 200 or 503 with a [Report].
func (h *Health) Routes(mux *http.ServeMux) {
	mux.HandleFunc("GET /livez", answer(h.Live))
	mux.HandleFunc("GET /healthz", answer(h.Live))
	mux.HandleFunc("GET /readyz", answer(h.Ready))
}

type namedCheck struct {
	name  string
	check func() error
}

func snapshot(checks map[string]func() error) []namedCheck {
	list := make([]namedCheck, 0, len(checks))
	for name, check := range checks {
		list = append(list, namedCheck{name, check})
	}
	slices.SortFunc(list, func(a, b namedCheck) int { return cmp.Compare(a.name, b.name) })
	return list
}

// ask calls the checks outside the lock: one of them may take a lock of its own that a registering stage holds.
func ask(checks []namedCheck) (Report, bool) {
	report, ok := Report{Checks: []Check{}}, true
	for _, c := range checks {
		line := Check{Name: c.name, OK: true}
		if err := c.check(); err != nil {
			line.OK, line.Reason, ok = false, err.Error(), false
		}
		report.Checks = append(report.Checks, line)
	}
	return report, ok
}

func answer(question func() (Report, bool)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		report, ok := question()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if !ok {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(report) // an asker who has hung up needs no answer
	}
}
