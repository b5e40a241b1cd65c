package httpapi

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Config is how the API meets its clients.
type Config struct {
	APIKeys       []string      `env:"LEAFCUTTER_API_KEYS" secret:"true" desc:"keys that clients may use, separated by commas; empty: everybody who reaches the API may use it"`
	AllowedHosts  []string      `env:"LEAFCUTTER_ALLOWED_HOSTS" desc:"host names that the API answers to, separated by commas; empty: loopback names where it listens on loopback, else all"`
	CORSOrigins   []string      `env:"LEAFCUTTER_CORS_ORIGINS" desc:"origins of web pages that may call the API, such as https://app.example.org, separated by commas"`
	RateLimit     float64       `env:"LEAFCUTTER_RATE_LIMIT" envDefault:"0" desc:"requests a second of each API key, or of each address where there are no keys; 0 for no limit"`
	RateBurst     int           `env:"LEAFCUTTER_RATE_BURST" envDefault:"50" desc:"requests that may come at once on top of the rate"`
	MaxUpload     int64         `env:"LEAFCUTTER_MAX_UPLOAD_BYTES" envDefault:"52428800" desc:"largest document that is taken, in bytes"`
	UploadTimeout time.Duration `env:"LEAFCUTTER_UPLOAD_TIMEOUT" envDefault:"15m" desc:"how long one upload may take"`
	StallTimeout  time.Duration `env:"LEAFCUTTER_STALL_TIMEOUT" envDefault:"30s" desc:"how long a client may neither send nor take a byte"`
	ObjectLinks   string        `env:"LEAFCUTTER_OBJECT_LINKS" envDefault:"stream" desc:"how images and sources are handed out: stream, or redirect to a signed link of 15 minutes"`
}

// Validate reports every fault at once.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	for _, key := range c.APIKeys {
		if len(strings.TrimSpace(key)) < 16 {
			fault("LEAFCUTTER_API_KEYS: a key has fewer than 16 characters; `openssl rand -hex 24` makes a good one")
			break
		}
	}
	for _, origin := range c.CORSOrigins {
		if u, err := url.Parse(strings.TrimSpace(origin)); err != nil || u.Host == "" || u.Path != "" || (u.Scheme != "https" && u.Scheme != "http") {
			fault("LEAFCUTTER_CORS_ORIGINS: %q is not an origin such as https://app.example.org", origin)
		}
	}
	if c.RateLimit < 0 {
		fault("LEAFCUTTER_RATE_LIMIT: %v, must be 0 or more", c.RateLimit)
	}
	if c.RateBurst < 1 {
		fault("LEAFCUTTER_RATE_BURST: %d, must be 1 or more", c.RateBurst)
	}
	if c.MaxUpload < 1 {
		fault("LEAFCUTTER_MAX_UPLOAD_BYTES: %d, must be 1 or more", c.MaxUpload)
	}
	if c.UploadTimeout <= 0 || c.StallTimeout <= 0 {
		fault("LEAFCUTTER_UPLOAD_TIMEOUT and LEAFCUTTER_STALL_TIMEOUT: must be above zero")
	}
	if c.ObjectLinks != "stream" && c.ObjectLinks != "redirect" {
		fault("LEAFCUTTER_OBJECT_LINKS: %q is neither stream nor redirect", c.ObjectLinks)
	}
	return errors.Join(faults...)
}
