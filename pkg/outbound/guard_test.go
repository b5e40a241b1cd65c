package outbound_test

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"leafcutter/pkg/outbound"
)

func TestGuard(t *testing.T) {
	public := []string{"1.1.1.1", "8.8.8.8", "172.15.255.255", "172.32.0.0", "100.63.255.255", "100.128.0.0", "192.167.255.255",
		"2606:4700:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::808:808"}
	private := []string{"127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
		"169.254.169.254", "100.64.0.1", "192.0.0.192", "198.18.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1",
		"::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "2002:7f00:1::1", "2001::1",
		"::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "::127.0.0.1"}
	for _, text := range public {
		if err := (outbound.Guard{}).Check(netip.MustParseAddr(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range private {
		if err := (outbound.Guard{}).Check(netip.MustParseAddr(text)); !errors.Is(err, outbound.ErrRefused) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := (outbound.Guard{}).Check(netip.Addr{}); !errors.Is(err, outbound.ErrRefused) {
		t.Errorf("no address: %v", err)
	}
	some := outbound.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/8")}}
	for text, ok := range map[string]bool{"10.1.2.3": true, "::ffff:10.1.2.3": true, "10.2.0.1": false, "fd00::1": true, "fc00::1": false, "127.0.0.1": false} {
		if err := some.Check(netip.MustParseAddr(text)); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// Names are checked by what they resolve to when the connection is made, and no proxy is asked to connect instead.
func TestGuardAtTheConnection(t *testing.T) {
	asked := false
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer server.Close()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(server.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("HTTP_PROXY", server.URL)
	guarded := client(t, outbound.Settings{Guard: &outbound.Guard{}})
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"} {
		response, err := guarded.Get("http://" + net.JoinHostPort(strings.Trim(host, "[]"), port))
		if err == nil {
			_ = response.Body.Close()
		}
		// Whether a resolver takes the last one for an address is its own affair: it must not come through.
		if err == nil || host != "2130706433" && !errors.Is(err, outbound.ErrRefused) {
			t.Errorf("%s: %v", host, err)
		}
	}
	if asked {
		t.Error("a request came through")
	}
	open := client(t, outbound.Settings{Guard: &outbound.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}})
	response, err := open.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	if err := response.Body.Close(); err != nil || !asked {
		t.Errorf("allowed, and not asked: %v", err)
	}
}
