package dynamicforward

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestWhichAddressesAreForwardedTo(t *testing.T) {
	for _, c := range []struct {
		allow   string // entries, separated by spaces
		host    string // the name that the address comes from
		address string
		port    string
		want    bool
	}{
		{address: "10.0.0.1", port: "80", want: true},
		{address: "127.0.0.1", port: "80", want: true},
		{address: "::1", port: "80", want: true},
		{address: "2001:db8::1", port: "80", want: true},
		{address: "169.254.169.254", port: "80"},
		{address: "169.254.0.1", port: "80"},
		{address: "fe80::1", port: "80"},
		{address: "fe80::1%eth0", port: "80"},
		{address: "0.0.0.0", port: "80"},
		{address: "0.1.2.3", port: "80"},
		{address: "::", port: "80"},
		{address: "224.0.0.1", port: "80"},
		{address: "ff02::1", port: "80"},
		{address: "255.255.255.255", port: "80"},
		{address: "fd00:ec2::254", port: "80"},
		{address: "fd00:ec2::23", port: "80"},
		{address: "fd20:ce::254", port: "80"},
		{address: "fd20:ce::253", port: "80", want: true},
		{address: "100.100.100.200", port: "80"},
		{address: "fd00:100::100:200", port: "80"},
		{address: "168.63.129.16", port: "32526"},
		{address: "168.63.129.17", port: "80", want: true},
		{address: "192.0.0.192", port: "80"},
		{address: "fd00:c1::a9fe:a9fe", port: "80"},
		{address: "fd00:42::42", port: "80"},
		{address: "fd00:a9fe:a9fe::1", port: "80"},
		{address: "::ffff:169.254.169.254", port: "80"},
		{address: "::ffff:0.0.0.0", port: "80"},
		{address: "64:ff9b::a9fe:a9fe", port: "80"},
		{address: "64:ff9b::a00:1", port: "80", want: true},
		{address: "64:ff9b:1::a9fe:a9fe", port: "80"},
		{address: "64:ff9b:1:2::a00:1", port: "80", want: true},
		{address: "64:ff9b:1:a9fe:a9:fe00::", port: "80"},
		{address: "64:ff9b:1:a00:0:700::", port: "80", want: true},
		{address: "64:ff9b:1:2a9:fe:a9fe::", port: "80"},
		{address: "64:ff9b:1:20a:0:7::", port: "80", want: true},
		{address: "64:ff9b:1:e00a:0:7::", port: "80", want: true},
		{address: "64:ff9b:1:2:a9:fea9:fe00:0", port: "80"},
		{address: "64:ff9b:1:2:a:0:700:0", port: "80", want: true},

		{allow: "10.0.0.0/8", address: "10.1.2.3", port: "80", want: true},
		{allow: "10.0.0.0/8", address: "::ffff:10.1.2.3", port: "80", want: true},
		{allow: "10.0.0.0/8", address: "11.0.0.1", port: "80"},
		{allow: "10.1.2.0/24:7000-7999", address: "10.1.2.3", port: "7000", want: true},
		{allow: "10.1.2.0/24:7000-7999", address: "10.1.2.3", port: "7999", want: true},
		{allow: "10.1.2.0/24:7000-7999", address: "10.1.2.3", port: "6999"},
		{allow: "10.1.2.0/24:7000-7999", address: "10.1.2.3", port: "8000"},
		{allow: "10.1.2.3:80", address: "10.1.2.3", port: "80", want: true},
		{allow: "10.1.2.3:80", address: "10.1.2.4", port: "80"},
		{allow: "fd00::/8 10.0.0.0/8", address: "fd12::1", port: "80", want: true},
		{allow: "[fd00::/8]:7000", address: "fd12::1", port: "7000", want: true},
		{allow: "[fd00::/8]:7000", address: "fd12::1", port: "7001"},
		{allow: "[fd00::1]:7000", address: "fd00::1", port: "7000", want: true},
		{allow: "0.0.0.0/0 ::/0", address: "169.254.169.254", port: "80"},
		{allow: "169.254.169.254", address: "169.254.169.254", port: "80"},
		{allow: "fd00::/8", address: "fd00:ec2::254", port: "80"},
		{allow: "game.example.com:443", host: "game.example.com", address: "203.0.113.1", port: "443", want: true},
		{allow: "game.example.com:443", host: "Game.Example.com.", address: "203.0.113.1", port: "443", want: true},
		{allow: "game.example.com:443", host: "game.example.com", address: "203.0.113.1", port: "80"},
		{allow: "game.example.com:443", host: "other.example.com", address: "203.0.113.1", port: "443"},
		{allow: "game.example.com:443", address: "203.0.113.1", port: "443"},
		{allow: "game.example.com.", host: "game.example.com", address: "203.0.113.1", port: "443", want: true},
		{allow: "wgame_1:80", host: "wgame_1", address: "203.0.113.1", port: "80", want: true},
		{allow: "game.example.com", host: "game.example.com", address: "169.254.169.254", port: "80"},
	} {
		f, err := newFence(&TargetsConfig{Allow: strings.Fields(c.allow)}, &net.Dialer{})
		if err != nil {
			t.Errorf("%s: %v", c.allow, err)
			continue
		}
		if got := f.permits(c.host, netip.MustParseAddr(c.address), c.port); got != c.want {
			t.Errorf("allow %q: %s %s port %s: got %v, want %v", c.allow, c.host, c.address, c.port, got, c.want)
		}
	}
}

func TestEntriesThatCannotBeRead(t *testing.T) {
	for _, entry := range []string{
		"", ":80", "10.0.0.0/33", "10.0.0.0/8:", "10.0.0.0/8:x", "10.0.0.0/8:1-", "10.0.0.0/8:2-1", "10.0.0.0/8:1-65536",
		"10.0.0", "1.2.3.4.5", "*.example.com", "http://a", "a b", "::ffff:10.0.0.0/104", "10.0.0.1-10.0.0.9", "10.0.0.1,10.0.0.2", "a,b", "a/24", "[::1", "fd00::/8:80:",
	} {
		_, err := newFence(&TargetsConfig{Allow: []string{entry}}, &net.Dialer{})
		if err == nil || !strings.HasPrefix(err.Error(), "targets.allow: ") {
			t.Errorf("%q: got %v", entry, err)
		}
	}
}

func TestTheFenceStandsAtTheDial(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	for _, c := range []struct {
		allow   string
		address string
		want    error // nil: connected
	}{
		{"", "127.0.0.1:" + port, nil},
		{"", "localhost:" + port, nil},
		{"localhost", "localhost:" + port, nil},
		{"127.0.0.0/8 ::1", "localhost:" + port, nil},
		{"10.0.0.0/8", "127.0.0.1:" + port, errBadTarget},
		{"10.0.0.0/8", "localhost:" + port, errBadTarget},
		{"", "0.0.0.0:" + port, errBadTarget},
		{"", "169.254.169.254:80", errBadTarget},
		{"", "[::ffff:169.254.169.254]:80", errBadTarget},
	} {
		f, err := newFence(&TargetsConfig{Allow: strings.Fields(c.allow)}, &net.Dialer{Timeout: 2 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		conn, err := dial(context.Background(), f.gate(c.address))
		if conn != nil {
			conn.Close()
		}
		if c.want == nil && err != nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("allow %q: %s: got %v, want %v", c.allow, c.address, err, c.want)
		}
	}
}
