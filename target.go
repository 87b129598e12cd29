package dynamicforward

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"
)

// target is a node's address, read from Redis.
type target struct {
	url     *url.URL // scheme, host and path prefix
	address string   // as Traefik's access log shows it: host:port, or the URL
	dial    string   // host:port
}

// parseTarget reads an address as Redis holds it: host:port, [v6]:port, or an
// http or https URL with an optional path prefix. White space around it is
// ignored. Nothing, null and NULL are errUnknownNode (the OpenResty script
// wrote and read them so); what cannot be read is errBadTarget.
func parseTarget(value string) (*target, error) {
	value = strings.TrimSpace(value)
	if value == "" || value == "null" || value == "NULL" {
		return nil, errUnknownNode
	}
	address := value
	if !strings.Contains(value, "://") {
		if _, _, err := net.SplitHostPort(value); err != nil {
			return nil, fmt.Errorf("%w: %s is neither host:port nor a URL", errBadTarget, quoted(value))
		}
		address = "http://" + value
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("%w: %s is neither host:port nor a URL", errBadTarget, quoted(value))
	}
	if err := checkTarget(u, address != value); err != nil {
		return nil, fmt.Errorf("%w: %s %s", errBadTarget, quoted(value), err.Error())
	}
	port := u.Port()
	switch {
	case port == "" && u.Scheme == "https":
		port = "443"
	case port == "":
		port = "80"
	}
	return &target{url: u, address: value, dial: net.JoinHostPort(u.Hostname(), port)}, nil
}

// quoted is an address in quotes, for an error, without what may be a password in it.
func quoted(address string) string {
	if at := strings.LastIndex(address, "@"); at >= 0 {
		address = "…" + address[at:]
	}
	return strconv.Quote(address)
}

// checkTarget says what is wrong with an address that could be parsed. A bare
// one has a host and a port alone.
func checkTarget(u *url.URL, bare bool) error {
	if u.Scheme != "http" && u.Scheme != "https" {
		return errors.New("has a scheme other than http and https")
	}
	if u.Hostname() == "" {
		return errors.New("has no host")
	}
	if strings.ContainsAny(u.Hostname(), " %,;\"'<>\\") || !utf8.ValidString(u.Host) {
		return errors.New("has a host that is no name and no address")
	}
	if bare && (u.Path != "" || u.User != nil) || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return errors.New("has more than a host, a port and, in a URL, a path")
	}
	if u.Port() == "" {
		if bare || strings.HasSuffix(u.Host, ":") {
			return errors.New("has no port")
		}
		return nil
	}
	if port, err := strconv.Atoi(u.Port()); err != nil || port < 1 || port > 65535 {
		return errors.New("has a port outside 1 to 65535")
	}
	return nil
}
