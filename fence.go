package dynamicforward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// TargetsConfig says which addresses may be forwarded to.
type TargetsConfig struct {
	// Allow lists networks, addresses and host names, each with a port or a
	// range of ports if not all are meant: "10.0.0.0/8",
	// "10.1.2.0/24:7000-7999", "[fd00::/8]:7000", "game.example.com:443".
	// Default empty: every address but those that are never forwarded to, which
	// are link-local, multicast, unspecified and broadcast ones, and what clouds
	// have for their machines alone, such as metadata.
	Allow []string `json:"allow,omitempty"`
}

// never are addresses that no configuration permits, besides those that netip
// knows as link-local, multicast and unspecified: they belong to the machine's
// own network or answer with its cloud credentials.
var never = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),              // "this network": Linux takes 0.0.0.0 for itself
	netip.MustParsePrefix("255.255.255.255/32"),     // broadcast
	netip.MustParsePrefix("169.254.169.254/32"),     // metadata: AWS, Azure, Google Cloud and others
	netip.MustParsePrefix("fd00:ec2::/32"),          // AWS over IPv6: metadata (::254), credentials of pods (::23), and its other services of a machine's own
	netip.MustParsePrefix("fd20:ce::254/128"),       // metadata: Google Cloud over IPv6
	netip.MustParsePrefix("100.100.100.200/32"),     // metadata: Alibaba Cloud
	netip.MustParsePrefix("fd00:100::100:200/128"),  // metadata: Alibaba Cloud over IPv6
	netip.MustParsePrefix("168.63.129.16/32"),       // Azure's channel between a machine and its host
	netip.MustParsePrefix("192.0.0.192/32"),         // metadata: Oracle Cloud Classic
	netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"), // metadata: Oracle Cloud over IPv6
	netip.MustParsePrefix("fd00:42::42/128"),        // metadata: Scaleway over IPv6
	netip.MustParsePrefix("fd00:a9fe:a9fe::1/128"),  // metadata: Linode over IPv6
}

// Where IPv6-only networks put IPv4 addresses: everybody's (RFC 6052), in the last four bytes,
// and those for use within a network (RFC 8215), there or further in front (RFC 6052, 2.2).
var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")
	nat64Local = netip.MustParsePrefix("64:ff9b:1::/48")
)

// fence decides which addresses are dialed. It is asked at every dial, with the
// address that is really meant: a name may resolve to another one each time.
type fence struct {
	allow  []permit
	dialer *net.Dialer
	gates  *memo // host:port -> *gate
}

// permit is one entry of targets.allow: a network or a name, and ports.
type permit struct {
	network netip.Prefix
	name    string // lower case; "": network counts
	low     int
	high    int
}

// newFence checks targets.allow. The error names the option and the entry.
func newFence(config *TargetsConfig, dialer *net.Dialer) (*fence, error) {
	f := &fence{dialer: dialer, gates: &memo{max: maxWays}}
	for _, entry := range config.Allow {
		p, err := parsePermit(strings.TrimSpace(entry))
		if err != nil {
			return nil, fmt.Errorf("targets.allow: %q %w: use a network, an address or a host name, with or without ports, such as 10.0.0.0/8, 10.1.2.0/24:7000-7999, [fd00::/8]:7000 or game.example.com:443", entry, err)
		}
		f.allow = append(f.allow, p)
	}
	return f, nil
}

// parsePermit reads an entry of targets.allow.
func parsePermit(entry string) (permit, error) {
	p := permit{low: 1, high: 65535}
	host := entry
	if i := strings.LastIndex(entry, ":"); i >= 0 && (strings.Count(entry, ":") == 1 || strings.HasSuffix(entry[:i], "]")) {
		host = entry[:i]
		if err := p.setPorts(entry[i+1:]); err != nil {
			return p, err
		}
	}
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	if network, err := netip.ParsePrefix(host); err == nil {
		if network.Addr().Is4In6() {
			return p, errors.New("is an IPv4 network in IPv6 notation")
		}
		p.network = network.Masked()
		return p, nil
	}
	if address, err := netip.ParseAddr(host); err == nil {
		address = address.Unmap().WithZone("")
		p.network = netip.PrefixFrom(address, address.BitLen())
		return p, nil
	}
	if host == "" || strings.ContainsAny(host, "/:*[]@, \t%?#\\") || strings.Trim(host, "0123456789.-") == "" {
		return p, errors.New("cannot be read")
	}
	p.name = strings.ToLower(strings.TrimSuffix(host, ".")) // as allows has it
	return p, nil
}

// setPorts reads a port or a range of them.
func (p *permit) setPorts(text string) error {
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		last = first
	}
	low, errLow := strconv.Atoi(first)
	high, errHigh := strconv.Atoi(last)
	if errLow != nil || errHigh != nil || low < 1 || high > 65535 || low > high {
		return errors.New("has no port or range of ports within 1 to 65535")
	}
	p.low = low
	p.high = high
	return nil
}

// gate returns the gate of an address.
func (f *fence) gate(address string) *gate {
	if known := f.gates.get(address); known != nil {
		return known.(*gate)
	}
	g := newGate(f, address)
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		g.barred = err
	} else if literal, err := netip.ParseAddr(host); err == nil {
		g.literal = f.permits("", literal, port)
		if !g.literal {
			g.barred = fmt.Errorf("%w: targets.allow does not permit %s", errBadTarget, address)
		}
	}
	return f.gates.keep(address, g).(*gate)
}

// dialName resolves a host name and connects to one of its addresses. Those that
// the fence lets through are tried in turn, within the dialer's timeout in all.
func (f *fence) dialName(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if f.dialer.Timeout > 0 {
		limited, cancel := context.WithTimeout(ctx, f.dialer.Timeout)
		defer cancel()
		ctx = limited
	}
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, dialError(network, err)
	}
	conn, err := f.dialFirst(ctx, network, host, port, addresses)
	return conn, err
}

// dialFirst connects to the first of a name's addresses that can be reached. Those
// that are left share the time that is, so one that does not answer leaves some to
// the next, as with net.Dialer (whose least share, 2s, would be all there is here).
func (f *fence) dialFirst(ctx context.Context, network, host, port string, addresses []netip.Addr) (net.Conn, error) {
	failure := fmt.Errorf("%w: targets.allow permits none of the addresses of %s: %v", errBadTarget, net.JoinHostPort(host, port), addresses)
	var permitted []string
	for _, a := range addresses {
		if f.permits(host, a, port) {
			permitted = append(permitted, net.JoinHostPort(a.Unmap().String(), port))
		}
	}
	for i, address := range permitted {
		conn, err := f.dialWithin(ctx, share(ctx, len(permitted)-i), network, address)
		if err == nil {
			return conn, nil
		}
		failure = err
	}
	return nil, failure
}

// share is the part of the time that is left to ctx that one of so many addresses
// gets. 0: there is no bound.
func share(ctx context.Context, addresses int) time.Duration {
	deadline, bounded := ctx.Deadline()
	if !bounded {
		return 0
	}
	return time.Until(deadline) / time.Duration(addresses)
}

// dialWithin connects to an address within limit, where that is not 0.
func (f *fence) dialWithin(ctx context.Context, limit time.Duration, network, address string) (net.Conn, error) {
	if limit != 0 {
		limited, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		ctx = limited
	}
	conn, err := f.dialer.DialContext(ctx, network, address)
	return conn, err
}

// permits tells whether an address may be dialed. host is the name that it
// comes from, if it does.
func (f *fence) permits(host string, address netip.Addr, port string) bool {
	address = address.Unmap().WithZone("")
	return !isNever(address) && f.allows(host, address, port)
}

// allows tells whether targets.allow holds an address or the name that it comes
// from.
func (f *fence) allows(host string, address netip.Addr, port string) bool {
	if len(f.allow) == 0 {
		return true
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return false
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	for i := range f.allow {
		p := &f.allow[i]
		if number < p.low || number > p.high {
			continue
		}
		if p.name != "" && p.name == host || p.name == "" && p.network.Contains(address) {
			return true
		}
	}
	return false
}

// neverNames are the names of cloud metadata, for who cannot see what they resolve
// to.
var neverNames = []string{"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}

// admit checks an address that somebody else dials. What a name resolves to is
// theirs to know, so networks in targets.allow permit no name; one that is no name
// but a number, which some read as an address, is refused.
func (f *fence) admit(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	permitted := false
	if literal, err := netip.ParseAddr(host); err == nil {
		permitted = f.permits("", literal, port)
	} else {
		permitted = !isNeverName(host) && f.allows(host, netip.Addr{}, port)
	}
	if !permitted {
		return fmt.Errorf("%w: targets.allow does not permit %s", errBadTarget, address)
	}
	return nil
}

// isNeverName tells whether a name is one of neverNames, or ends in a number.
func isNeverName(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	for i := range neverNames {
		if neverNames[i] == host {
			return true
		}
	}
	last := host[strings.LastIndex(host, ".")+1:]
	_, err := strconv.ParseUint(last, 0, 64) // in any base
	return err == nil || strings.Trim(last, "0123456789") == ""
}

// isNever tells whether an address is one that is never forwarded to.
func isNever(address netip.Addr) bool {
	if nat64.Contains(address) || nat64Local.Contains(address) {
		b := address.As16()
		if b[13] == 0 && b[14] == 0 && b[15] == 0 && nat64Local.Contains(address) { // by prefixes of 48, 56 and 64 bits
			return isNeverNode([]byte{b[6], b[7], b[9], b[10]}) || isNeverNode([]byte{b[7], b[9], b[10], b[11]}) || isNeverNode(b[9:13])
		}
		address, _ = netip.AddrFromSlice(b[12:])
	}
	if address.IsUnspecified() || address.IsLinkLocalUnicast() || address.IsMulticast() {
		return true
	}
	for i := range never {
		if never[i].Contains(address) {
			return true
		}
	}
	return false
}

// isNeverNode is isNever for four bytes that may be an IPv4 address, or not even one of a node.
func isNeverNode(bytes []byte) bool {
	address, _ := netip.AddrFromSlice(bytes)
	return bytes[0] != 0 && !address.IsMulticast() && isNever(address)
}
