package dynamicforward

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/traefik/genconf/dynamic"
)

// The timeouts to nodes that differ from Traefik's defaults (30s and none). A
// node is near and takes a connection at once or not at all, and a client that
// waits a minute for a first byte has gone.
const (
	defaultDialTimeout           = 2 * time.Second
	defaultResponseHeaderTimeout = 60 * time.Second
)

// defaultFlushInterval is Traefik's.
const defaultFlushInterval = 100 * time.Millisecond

// joinForwarder returns the forwarder for these settings, shared with every
// other router that has them, so that connections to nodes outlive a reload.
func joinForwarder(ctx context.Context, config *dynamic.ServersTransport, responses *dynamic.ResponseForwarding, targets *TargetsConfig) (*forwarder, error) {
	if config == nil {
		config = &dynamic.ServersTransport{}
	}
	dialer := &net.Dialer{Timeout: defaultDialTimeout, KeepAlive: 30 * time.Second}
	transport, err := newTransport(config, dialer)
	if err != nil {
		return nil, fmt.Errorf("serversTransport.%w", err)
	}
	fence, err := newFence(targets, dialer)
	if err != nil {
		return nil, err
	}
	// Yaegi: a method value of a compiled type does not load (yaegi#1356).
	transport.DialContext = func(ctx context.Context, _, address string) (net.Conn, error) {
		conn, err := dial(ctx, fence.gate(address))
		return conn, err
	}
	flush, err := flushInterval(responses)
	if err != nil {
		return nil, fmt.Errorf("responseForwarding.%w", err)
	}
	settings, err := json.Marshal([]interface{}{config, targets, flush})
	if err != nil {
		return nil, fmt.Errorf("serversTransport: %w", err)
	}
	open := func() closer {
		f := &forwarder{fence: fence, transport: transport, flush: flush, lanes: newWatchman()}
		f.carriers = newCarriers(f)
		return f
	}
	return everything.join(ctx, "nodes "+string(settings), open).(*forwarder), nil
}

// newTransport makes of Traefik's configuration what Traefik makes of it, but
// for HTTP/2, which game nodes do not speak, and for a proxy from the
// environment, which would go round the fence. dialer gets its timeout.
func newTransport(config *dynamic.ServersTransport, dialer *net.Dialer) (*http.Transport, error) {
	transport := &http.Transport{
		MaxIdleConnsPerHost:   config.MaxIdleConnsPerHost,
		ResponseHeaderTimeout: defaultResponseHeaderTimeout,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true, // or it asks nodes for gzip where the client did not
		ReadBufferSize:        64 * 1024,
		WriteBufferSize:       64 * 1024,
	}
	if config.MaxIdleConnsPerHost == 0 {
		transport.MaxIdleConnsPerHost = 200 // as Traefik's default servers transport; negative: none are kept
	}
	if timeouts := config.ForwardingTimeouts; timeouts != nil {
		if err := setDuration(&dialer.Timeout, "dialTimeout", timeouts.DialTimeout); err != nil {
			return nil, fmt.Errorf("forwardingTimeouts.%w", err)
		}
		if err := setDuration(&transport.ResponseHeaderTimeout, "responseHeaderTimeout", timeouts.ResponseHeaderTimeout); err != nil {
			return nil, fmt.Errorf("forwardingTimeouts.%w", err)
		}
		if err := setDuration(&transport.IdleConnTimeout, "idleConnTimeout", timeouts.IdleConnTimeout); err != nil {
			return nil, fmt.Errorf("forwardingTimeouts.%w", err)
		}
		if timeouts.ReadIdleTimeout != "" || timeouts.PingTimeout != "" {
			return nil, errors.New("forwardingTimeouts: readIdleTimeout and pingTimeout are for HTTP/2, which is not spoken to nodes: remove them")
		}
	}
	tlsConfig, err := newTLSConfig(config)
	if err != nil {
		return nil, err
	}
	transport.TLSClientConfig = tlsConfig
	return transport, nil
}

// newTLSConfig is for nodes whose address is an https URL.
func newTLSConfig(config *dynamic.ServersTransport) (*tls.Config, error) {
	if config.PeerCertURI != "" {
		return nil, errors.New("peerCertURI: not supported: use serverName and rootCAs")
	}
	roots, err := readCertPool(config.RootCAs)
	if err != nil {
		return nil, fmt.Errorf("rootCAs: %w", err)
	}
	tlsConfig := &tls.Config{ServerName: config.ServerName, InsecureSkipVerify: config.InsecureSkipVerify, RootCAs: roots}
	for _, pair := range config.Certificates {
		if pair.CertFile == "" || pair.KeyFile == "" {
			return nil, errors.New("certificates: each needs both certFile and keyFile")
		}
		certificate, err := readKeyPair("certFile", pair.CertFile, "keyFile", pair.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("certificates: %w", err)
		}
		tlsConfig.Certificates = append(tlsConfig.Certificates, certificate)
	}
	return tlsConfig, nil
}

// flushInterval reads the option of that name. Below zero it means at once.
func flushInterval(config *dynamic.ResponseForwarding) (time.Duration, error) {
	if config == nil || config.FlushInterval == "" {
		return defaultFlushInterval, nil
	}
	interval, err := parseDuration(config.FlushInterval)
	if err != nil {
		return 0, fmt.Errorf("flushInterval: %q is no duration: use one such as 100ms, or -1 to flush at once", config.FlushInterval)
	}
	return interval, nil
}

// setDuration reads a duration into d; "" leaves d as it is. The error names the
// option.
func setDuration(d *time.Duration, option, text string) error {
	if text == "" {
		return nil
	}
	parsed, err := parseDuration(text)
	if err != nil || parsed < 0 {
		return fmt.Errorf("%s: %q is no duration: use one such as 1s or 250ms", option, text)
	}
	*d = parsed
	return nil
}

// parseDuration reads a duration such as "1s" or "250ms"; a bare number is seconds,
// as in Traefik.
func parseDuration(text string) (time.Duration, error) {
	if seconds, err := strconv.Atoi(text); err == nil {
		text = strconv.Itoa(seconds) + "s"
	}
	d, err := time.ParseDuration(text)
	return d, err
}
