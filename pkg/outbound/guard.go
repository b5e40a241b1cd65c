package outbound

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// ErrRefused is in the error of a connection that a [Guard] refused.
var ErrRefused = errors.New("the address is not on the public internet")

// Guard says which addresses may be connected to where somebody else chose the name. It is asked for each address that
// a name was resolved to, when the connection is made: a name that was harmless when it was looked up before, and points
// into the own network now, gets nowhere (DNS rebinding). The zero Guard allows what is routed on the public internet.
type Guard struct {
	Allow []netip.Prefix // networks that are allowed besides
}

// special are the networks that the public internet does not route to anybody's host, by the registries of special
// purpose addresses of IANA (RFC 6890 and its updates). Of IPv6 only 2000::/3 is in use at all.
var special = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
	"192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
	"224.0.0.0/4", "240.0.0.0/4",
	"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
)

var (
	publicIPv6 = netip.MustParsePrefix("2000::/3")
	translated = netip.MustParsePrefix("64:ff9b::/96") // NAT64: the last four bytes are an IPv4 address (RFC 6052)
)

func prefixes(texts ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		all[i] = netip.MustParsePrefix(text)
	}
	return all
}

// Check is nil where addr may be connected to, else an error with [ErrRefused] in it.
func (g Guard) Check(addr netip.Addr) error {
	addr = addr.WithZone("").Unmap()
	for _, p := range g.Allow {
		if p.Contains(addr) {
			return nil
		}
	}
	if translated.Contains(addr) {
		bytes := addr.As16()
		return g.Check(netip.AddrFrom4([4]byte(bytes[12:])))
	}
	refused := addr.Is6() && !publicIPv6.Contains(addr)
	for _, p := range special {
		refused = refused || p.Contains(addr)
	}
	if refused || !addr.IsValid() {
		return fmt.Errorf("%s: %w", addr, ErrRefused)
	}
	return nil
}

// control is the check as a dialer calls it: after the name was resolved and before the connection is made.
func (g Guard) control(_ context.Context, network, address string, _ syscall.RawConn) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%s %s: %w", network, address, err)
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return fmt.Errorf("%s %s: %w", network, address, err)
	}
	return g.Check(addr)
}
