package httpapi

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"golang.org/x/time/rate"

	"leafcutter/ingest-api/internal/problem"
)

// KeyCookie is the cookie by which a browser that has logged in shows its API key. It is SameSite=Strict and HttpOnly.
const KeyCookie = "leafcutter_key"

const callerKey = "leafcutter.caller" // of gin's context: the API key of the request, "" where none is needed

// open are the paths that say nothing about documents: they need no key.
var open = []string{"/docs", "/openapi.json", "/login", "/livez", "/healthz", "/readyz"}

// guard decides who may ask at all.
type guard struct {
	keys    [][sha256.Size]byte
	hosts   []string // lower case; empty for all
	origins []string
	cross   *http.CrossOriginProtection
	rates   *rates
}

func newGuard(c Config, loopback bool) (*guard, error) {
	g := &guard{cross: http.NewCrossOriginProtection(), rates: newRates(c.RateLimit, c.RateBurst)}
	for _, key := range c.APIKeys {
		g.keys = append(g.keys, sha256.Sum256([]byte(strings.TrimSpace(key))))
	}
	for _, host := range c.AllowedHosts {
		g.hosts = append(g.hosts, strings.ToLower(strings.TrimSpace(host)))
	}
	if len(g.hosts) == 0 && loopback {
		// A page of another site can point its own name at 127.0.0.1 (DNS rebinding); then only the Host header tells.
		g.hosts = []string{"localhost", "127.0.0.1", "::1"}
	}
	for _, origin := range c.CORSOrigins {
		origin = strings.TrimSpace(origin)
		g.origins = append(g.origins, origin)
		if err := g.cross.AddTrustedOrigin(origin); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// check is the middleware: host, origin, rate, key, in this order, so that keys cannot be guessed faster than the rate.
func (g *guard) check(c *gin.Context) {
	if !g.answersTo(c.Request.Host) {
		refuse(c, problem.New(problem.HostNotAllowed, "The request is for the host %.100q", c.Request.Host))
		return
	}
	if g.cors(c) {
		return
	}
	if err := g.cross.Check(c.Request); err != nil {
		refuse(c, problem.Because(err, problem.OriginNotAllowed, "The request comes from the page of another site"))
		return
	}
	caller, ok := g.caller(c.Request)
	by := caller
	if !ok || by == "" {
		by = c.ClientIP() // a key that is not known is whatever the caller likes
	}
	if wait := g.rates.wait(by, time.Now()); wait > 0 {
		p := problem.New(problem.RateLimited, "The rate of requests is above the limit")
		p.RetryAfter = wait
		refuse(c, p)
		return
	}
	if !ok && !isOpen(c.Request.URL.Path) {
		if wantsPage(c.Request) {
			c.Redirect(http.StatusSeeOther, "/login")
			c.Abort()
			return
		}
		refuse(c, problem.New(problem.Unauthorized, "The request has no valid API key"))
		return
	}
	c.Set(callerKey, caller)
	c.Next()
}

func (g *guard) answersTo(hostport string) bool {
	if len(g.hosts) == 0 {
		return true
	}
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	return slices.Contains(g.hosts, strings.ToLower(strings.Trim(host, "[]")))
}

// cors lets the pages of configured origins read answers. It reports whether the request was a preflight, which is then
// answered.
func (g *guard) cors(c *gin.Context) bool {
	origin := c.GetHeader("Origin")
	if origin == "" || !slices.Contains(g.origins, origin) {
		return false
	}
	h := c.Writer.Header()
	h.Set("Access-Control-Allow-Origin", origin)
	h.Add("Vary", "Origin")
	h.Set("Access-Control-Expose-Headers", "Location, Retry-After, X-Request-Id, ETag")
	h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	if c.Request.Method != http.MethodOptions || c.GetHeader("Access-Control-Request-Method") == "" {
		return false
	}
	h.Set("Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS")
	h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Idempotency-Key, If-None-Match, X-API-Key")
	h.Set("Access-Control-Max-Age", "600")
	c.AbortWithStatus(http.StatusNoContent)
	return true
}

// caller is the API key that the request shows, and whether it may go on. Keys are compared by digest, in constant
// time, all of them.
func (g *guard) caller(r *http.Request) (string, bool) {
	if len(g.keys) == 0 {
		return "", true
	}
	shown := r.Header.Get("X-API-Key")
	if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok && shown == "" {
		shown = strings.TrimSpace(token)
	}
	if cookie, err := r.Cookie(KeyCookie); err == nil && shown == "" {
		shown = cookie.Value
	}
	return shown, g.knows(shown)
}

// knows reports whether key is one of the server's.
func (g *guard) knows(key string) bool {
	digest, found := sha256.Sum256([]byte(key)), 0
	for _, k := range g.keys {
		found |= subtle.ConstantTimeCompare(k[:], digest[:])
	}
	return found == 1
}

func isOpen(path string) bool {
	return slices.Contains(open, path) || strings.HasPrefix(path, "/assets/")
}

// wantsPage reports whether a person in a browser asks for a web page, rather than a program for the API's.
func wantsPage(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Contains(r.Header.Get("Accept"), "text/html") && !strings.HasPrefix(r.URL.Path, "/v1/")
}

// rates holds a token bucket for each caller, and forgets those that are full again.
type rates struct {
	limit rate.Limit
	burst int

	mu      sync.Mutex
	callers map[string]*rate.Limiter
}

// maxCallers bounds the buckets that are kept; past it the idle ones go, and if none is idle, all.
const maxCallers = 10_000

func newRates(limit float64, burst int) *rates {
	return &rates{limit: rate.Limit(limit), burst: burst, callers: map[string]*rate.Limiter{}}
}

// wait is how long the caller has to wait; 0 where the request may go on.
func (r *rates) wait(caller string, now time.Time) time.Duration {
	if r.limit == 0 {
		return 0
	}
	reservation := r.of(caller, now).ReserveN(now, 1)
	delay := reservation.DelayFrom(now)
	if delay > 0 {
		reservation.CancelAt(now)
	}
	return delay
}

func (r *rates) of(caller string, now time.Time) *rate.Limiter {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.callers[caller]; l != nil {
		return l
	}
	if len(r.callers) >= maxCallers {
		for name, l := range r.callers {
			if l.TokensAt(now) >= float64(r.burst) {
				delete(r.callers, name)
			}
		}
		if len(r.callers) >= maxCallers {
			clear(r.callers)
		}
	}
	l := rate.NewLimiter(r.limit, r.burst)
	r.callers[caller] = l
	return l
}
