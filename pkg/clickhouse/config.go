package clickhouse

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Config says which database of which server.
type Config struct {
	Addr     []string      `env:"CLICKHOUSE_ADDR" envDefault:"127.0.0.1:8123" desc:"HTTP interface of ClickHouse: host:port, or http:// or https:// URL; several replicas separated by commas"`
	Database string        `env:"CLICKHOUSE_DATABASE" envDefault:"leafcutter" desc:"database that holds documents, runs and page results"`
	User     string        `env:"CLICKHOUSE_USER" envDefault:"default" desc:"user of the database"`
	Password string        `env:"CLICKHOUSE_PASSWORD" secret:"true" desc:"password of the user"`
	Timeout  time.Duration `env:"CLICKHOUSE_TIMEOUT" envDefault:"60s" desc:"how long the server may be silent while it works on a statement"`
}

// identifier is what is put between backquotes without a second thought.
var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

// Validate reports every fault at once.
func (c Config) Validate() error {
	var faults []error
	if _, _, err := c.addresses(); err != nil {
		faults = append(faults, err)
	}
	if !identifier.MatchString(c.Database) {
		faults = append(faults, fmt.Errorf("CLICKHOUSE_DATABASE: %q is not a plain identifier", c.Database))
	}
	if c.User == "" {
		faults = append(faults, errors.New("CLICKHOUSE_USER: must not be empty"))
	}
	if c.Timeout <= 0 {
		faults = append(faults, fmt.Errorf("CLICKHOUSE_TIMEOUT: %s is not above zero", c.Timeout))
	}
	return errors.Join(faults...)
}

// addresses gives host:port of each server, and whether they speak TLS: all or none.
func (c Config) addresses() (hosts []string, secure bool, err error) {
	schemes := map[string]bool{}
	for _, addr := range c.Addr {
		addr = strings.TrimSpace(addr)
		text := addr
		if !strings.Contains(text, "://") {
			text = "http://" + text
		}
		u, err := url.Parse(text)
		if err != nil || u.Hostname() == "" || u.Path != "" && u.Path != "/" || u.User != nil || u.RawQuery != "" {
			return nil, false, fmt.Errorf("CLICKHOUSE_ADDR: %q is neither host:port nor http(s)://host:port", addr)
		}
		port := u.Port()
		switch {
		case u.Scheme != "http" && u.Scheme != "https":
			return nil, false, fmt.Errorf("CLICKHOUSE_ADDR: %q: only the HTTP interface is used, so http or https", addr)
		case port == "9000" || port == "9440":
			return nil, false, fmt.Errorf("CLICKHOUSE_ADDR: %q: %s is the port of the native protocol; the HTTP interface is on 8123 or 8443", addr, port)
		case port == "" && u.Scheme == "https":
			port = "8443"
		case port == "":
			port = "8123"
		}
		schemes[u.Scheme] = true
		hosts = append(hosts, net.JoinHostPort(u.Hostname(), port))
	}
	if len(hosts) == 0 {
		return nil, false, errors.New("CLICKHOUSE_ADDR: must not be empty")
	}
	if len(schemes) > 1 {
		return nil, false, errors.New("CLICKHOUSE_ADDR: http and https cannot be mixed")
	}
	return hosts, schemes["https"], nil
}

// LogValue tells where, and never with which password.
func (c Config) LogValue() slog.Value {
	return slog.GroupValue(slog.Any("addr", c.Addr), slog.String("database", c.Database), slog.String("user", c.User))
}

// String is for a Config that is printed by accident: it withholds the password.
func (c Config) String() string {
	return fmt.Sprintf("%s/%s as %s", strings.Join(c.Addr, ","), c.Database, c.User)
}

// GoString is String, for %#v.
func (c Config) GoString() string { return c.String() }
