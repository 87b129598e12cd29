package dynamicforward

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"
	"github.com/traefik/genconf/dynamic/types"
)

// redisSettings is a checked RedisConfig.
type redisSettings struct {
	endpoints    []string
	username     string
	password     string
	passwordFile string // "": password counts
	db           int
	tls          *types.ClientTLS // nil: plain TCP
	sentinel     *SentinelConfig  // nil: endpoints are no Sentinels
	cluster      bool
	dialTimeout  time.Duration
	readTimeout  time.Duration
	writeTimeout time.Duration
	identity     string // equal for equal settings
}

// newRedisSettings checks the redis options. The error names the option and
// says what to do. Nothing is dialed; files that the options name are read, so
// that a wrong path is found here.
func newRedisSettings(config *RedisConfig) (*redisSettings, error) {
	s := &redisSettings{
		username: config.Username, password: config.Password,
		passwordFile: config.PasswordFile, db: config.DB, tls: config.TLS,
		sentinel: config.Sentinel, cluster: config.Cluster,
	}
	for _, endpoint := range config.Endpoints { // Traefik splits a text at its commas alone
		s.endpoints = append(s.endpoints, strings.TrimSpace(endpoint))
	}
	if err := s.checkEndpoints(); err != nil {
		return nil, err
	}
	if err := s.checkSecrets(); err != nil {
		return nil, err
	}
	if s.db < 0 {
		return nil, fmt.Errorf("redis.db: %d is no database: use 0 or more", s.db)
	}
	if s.cluster && s.db != 0 {
		return nil, fmt.Errorf("redis.db: a Cluster has database 0 alone: remove redis.db (%d) or redis.cluster", s.db)
	}
	for _, t := range []struct {
		option string
		text   string
		d      *time.Duration
	}{
		{"dialTimeout", config.DialTimeout, &s.dialTimeout},
		{"readTimeout", config.ReadTimeout, &s.readTimeout},
		{"writeTimeout", config.WriteTimeout, &s.writeTimeout},
	} {
		*t.d = time.Second
		if err := setDuration(t.d, "redis."+t.option, t.text); err != nil {
			return nil, err
		}
		if *t.d == 0 {
			return nil, fmt.Errorf("redis.%s: must be more than 0: without it a dead Redis would hold requests for ever", t.option)
		}
	}
	identity, err := json.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	s.identity = string(identity)
	return s, nil
}

// unixPrefix begins an endpoint that is a unix socket.
const unixPrefix = "unix://"

// checkEndpoints checks where Redis is: one server, Sentinels, or a Cluster.
func (s *redisSettings) checkEndpoints() error {
	if s.cluster && s.sentinel != nil {
		return errors.New("redis.sentinel: a Cluster has no Sentinels: remove redis.sentinel or redis.cluster")
	}
	if s.sentinel != nil && s.sentinel.MasterName == "" {
		return errors.New("redis.sentinel.masterName: missing: set the name that SENTINEL MASTERS shows")
	}
	several := s.cluster || s.sentinel != nil
	if len(s.endpoints) == 0 {
		return errors.New("redis.endpoints: missing: set a host:port such as 127.0.0.1:6379, or unix:///path")
	}
	if len(s.endpoints) > 1 && !several {
		return fmt.Errorf("redis.endpoints: one server has one address, and here are %d: set redis.sentinel.masterName if they are Sentinels, redis.cluster if they are a Cluster, or leave one", len(s.endpoints))
	}
	for _, endpoint := range s.endpoints {
		if strings.HasPrefix(endpoint, unixPrefix) {
			if !strings.HasPrefix(endpoint, unixPrefix+"/") {
				return fmt.Errorf("redis.endpoints: %s names no socket: use unix:///path, with three slashes", quoted(endpoint))
			}
			if several {
				return fmt.Errorf("redis.endpoints: %q: Sentinels and the nodes of a Cluster are reached by host:port: use that", endpoint)
			}
			if s.tls != nil {
				return fmt.Errorf("redis.tls: Redis speaks no TLS on the unix socket %q: remove redis.tls", endpoint)
			}
			continue
		}
		if strings.Contains(endpoint, "@") {
			return fmt.Errorf("redis.endpoints: %s has a user or a password in it: use host:port, redis.username and redis.passwordFile", quoted(endpoint))
		}
		host, port, err := net.SplitHostPort(endpoint)
		if err != nil || host == "" || port == "" {
			return fmt.Errorf("redis.endpoints: %q is no host:port: use one such as 127.0.0.1:6379", endpoint)
		}
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return fmt.Errorf("redis.endpoints: %q has no port from 1 to 65535: use one such as 127.0.0.1:6379", endpoint)
		}
	}
	return nil
}

// checkSecrets checks who we are for Redis, and who Redis is for us.
func (s *redisSettings) checkSecrets() error {
	if s.password != "" && s.passwordFile != "" {
		return errors.New("redis.passwordFile: there is redis.password too: remove one of them")
	}
	if s.username != "" && s.password == "" && s.passwordFile == "" {
		return errors.New("redis.username: needs redis.password or redis.passwordFile")
	}
	if s.sentinel != nil && s.sentinel.Username != "" && s.sentinel.Password == "" {
		return errors.New("redis.sentinel.username: needs redis.sentinel.password")
	}
	if _, err := s.secret(); err != nil {
		return err
	}
	_, err := s.tlsConfig()
	return err
}

// secret returns the password, which may have changed since the last time.
func (s *redisSettings) secret() (string, error) {
	if s.passwordFile == "" {
		return s.password, nil
	}
	content, err := os.ReadFile(s.passwordFile)
	if err != nil {
		return "", fmt.Errorf("redis.passwordFile: %w", unread(s.passwordFile, err))
	}
	password := strings.TrimRight(string(content), "\r\n")
	if password == "" {
		return "", fmt.Errorf("redis.passwordFile: %s is empty: write the password into it", s.passwordFile)
	}
	return password, nil
}

// tlsConfig reads the certificates, which may have changed since the last time.
// nil: no TLS.
func (s *redisSettings) tlsConfig() (*tls.Config, error) {
	if s.tls == nil {
		return nil, nil
	}
	if s.tls.CAOptional {
		return nil, errors.New("redis.tls.caOptional: means nothing to a client: remove it, or set redis.tls.insecureSkipVerify")
	}
	config := &tls.Config{InsecureSkipVerify: s.tls.InsecureSkipVerify}
	if s.tls.CA != "" {
		roots, err := readCertPool([]string{s.tls.CA})
		if err != nil {
			return nil, fmt.Errorf("redis.tls.ca: %w", err)
		}
		config.RootCAs = roots
	}
	if s.tls.Cert == "" && s.tls.Key == "" {
		return config, nil
	}
	if s.tls.Cert == "" {
		return nil, errors.New("redis.tls.key: needs the certificate that it belongs to: set redis.tls.cert")
	}
	if s.tls.Key == "" {
		return nil, errors.New("redis.tls.cert: needs its key: set redis.tls.key")
	}
	pair, err := readKeyPair("redis.tls.cert", s.tls.Cert, "redis.tls.key", s.tls.Key)
	if err != nil {
		return nil, err
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
}

// login is who we are to a server.
type login struct {
	username string
	password string // "": no AUTH is sent
	db       int
}

// dial makes a connection to a server that holds routes.
func (s *redisSettings) dial(endpoint string) (redis.Conn, error) {
	password, err := s.secret()
	if err != nil {
		return nil, err
	}
	conn, err := s.dialAs(endpoint, &login{username: s.username, password: password, db: s.db})
	return conn, err
}

// dialAs makes a connection. It is the one place that does: to every server, on
// every way, with TLS or without.
func (s *redisSettings) dialAs(endpoint string, who *login) (redis.Conn, error) {
	config, err := s.tlsConfig()
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(s.dialTimeout)
	dialer := &net.Dialer{Deadline: deadline}
	network := "tcp"
	address := strings.TrimPrefix(endpoint, unixPrefix)
	if address != endpoint {
		network = "unix"
	}
	conn, err := dialer.Dial(network, address)
	if err == nil && config != nil {
		conn, err = secure(conn, address, config, deadline)
	}
	if err != nil {
		return nil, err
	}
	c := redis.NewConn(conn, s.readTimeout, s.writeTimeout)
	err = who.introduce(c)
	if err == nil {
		return c, nil
	}
	hungUp := c.Err() != nil && !isTimeout(err)
	c.Close()
	if hungUp && !strings.HasPrefix(err.Error(), "remote error: ") {
		look := "if it wants TLS, set redis.tls"
		if config != nil {
			look = "if it wants a certificate of ours, set redis.tls.cert and redis.tls.key"
		}
		return nil, fmt.Errorf("the server hung up on our first words: %w: %s", err, look)
	}
	return nil, err
}

// secure makes a connection a TLS one, to the host of the address.
func secure(conn net.Conn, address string, config *tls.Config, deadline time.Time) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		conn.Close()
		return nil, err
	}
	config.ServerName = host
	secured := tls.Client(conn, config)
	_ = conn.SetDeadline(deadline)
	err = secured.Handshake()
	if err != nil {
		conn.Close()
		if isTimeout(err) {
			return nil, fmt.Errorf("no answer to the TLS handshake: %w: if the server speaks no TLS, remove redis.tls", err)
		}
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	return secured, nil
}

// introduce sends AUTH and SELECT where they are needed, and returns when the
// server is ready for more.
func (l *login) introduce(c redis.Conn) error {
	var err error
	switch {
	case l.password == "":
	case l.username == "":
		_, err = c.Do("AUTH", l.password)
	default:
		_, err = c.Do("AUTH", l.username, l.password)
	}
	if err != nil {
		return l.censor(err)
	}
	if l.db != 0 {
		if _, err := c.Do("SELECT", l.db); err != nil {
			return err
		}
	}
	err = ready(c)
	return err
}

// censor takes the password out of an error: a server that does not know AUTH
// repeats what it was sent, or the beginning of it.
func (l *login) censor(err error) error {
	if strings.HasPrefix(err.Error(), "ERR unknown command") {
		return errors.New("ERR unknown command 'AUTH'")
	}
	if strings.Contains(err.Error(), l.password) {
		return errors.New(strings.ReplaceAll(err.Error(), l.password, "***"))
	}
	return err
}

// ready asks a server whether it can answer. One that is still reading its data
// from disk, or that is a replica without its master, takes connections and even
// INFO, but no PING.
func ready(conn redis.Conn) error {
	_, err := conn.Do("PING")
	if err == nil || conn.Err() != nil {
		return err
	}
	if strings.HasPrefix(err.Error(), "NOPERM") || strings.HasPrefix(err.Error(), "ERR unknown command") {
		return nil // it lives, and PING is no look-up
	}
	return err
}

// hints say which option to look at, by the beginning of what a server says.
// LOGIN and USER stand for the options that let us in, which differ for Sentinels.
var hints = []struct{ prefix, look string }{
	{"WRONGPASS", "look at LOGIN"},
	{"ERR invalid password", "look at LOGIN"},
	{"NOAUTH", "the server wants a password: look at LOGIN"},
	{"ERR AUTH", "the server has no password: look at LOGIN"},
	{"ERR Client sent AUTH", "the server has no password: look at LOGIN"},
	{"ERR wrong number of arguments for 'auth'", "the server has no users (Redis before 6): look at LOGIN"},
	{"NOPERM", "look at the ACL rules of USER"},
	{"DENIED", "the server is in protected mode: give it a password, or bind it to an address"},
	{"ERR max number of clients", "look at the server's maxclients"},
	{"ERR DB index", "look at redis.db"},
	{"ERR invalid DB index", "look at redis.db"},
	{"ERR SELECT is not allowed", "the server is part of a Cluster: set redis.cluster and remove redis.db"},
	{"LOADING", "the server is reading its data from disk, and is tried again until it is done; is it the one that redis.endpoints means?"},
	{"MASTERDOWN", "the server is a replica that has lost its master: look at redis.endpoints, and at redis.sentinel if there are Sentinels"},
	{"READONLY", "the server is a replica: look at redis.endpoints, and at redis.sentinel if there are Sentinels"},
	{"CLUSTERDOWN", "the Cluster of redis.endpoints does not serve this key now: look at its CLUSTER INFO"},
	{"MOVED", "the server is part of a Cluster: set redis.cluster"},
	{"ASK", "the server is part of a Cluster: set redis.cluster"},
	{"ERR This instance has cluster support disabled", "the server is no node of a Cluster: remove redis.cluster"},
	{"ERR unknown command 'SENTINEL'", "the server is no Sentinel: redis.endpoints must be the Sentinels, or remove redis.sentinel"},
	{"ERR unknown command 'HGET'", "is the server a Sentinel? Then set redis.sentinel.masterName"},
	{"ERR unknown command 'GET'", "is the server a Sentinel? Then set redis.sentinel.masterName"},
	{"tls: first record does not look like a TLS handshake", "the server speaks no TLS: remove redis.tls"},
	{"tls: failed to verify certificate", "look at redis.tls.ca and at the host names in redis.endpoints"},
	{"x509:", "look at redis.tls.ca and at the host names in redis.endpoints"},
	{"remote error: tls:", "the server refuses us, most often for our certificate or the lack of one: look at redis.tls.cert and redis.tls.key"},
}

// wording turns an error of the server or of the connection into words that name
// the option to look at. No error here contains a password (see censor).
func wording(err error) string {
	return hinted(withoutOurPort(err), "redis.username, redis.password and redis.passwordFile", "redis.username")
}

// sentinelWording is wording for what a Sentinel says.
func sentinelWording(err error) string {
	return hinted(withoutOurPort(err), "redis.sentinel.username and redis.sentinel.password", "redis.sentinel.username")
}

// withoutOurPort is an error's text, and the same for the same failure of another connection,
// since some failures are logged once.
func withoutOurPort(err error) string {
	text := err.Error()
	var op *net.OpError
	if errors.As(err, &op) && op.Source != nil {
		text = strings.Replace(text, op.Source.String()+"->", "", 1)
	}
	return text
}

// hinted adds the hint to a text that has one.
func hinted(text, login, user string) string {
	for _, h := range hints {
		if strings.HasPrefix(text, h.prefix) {
			look := strings.Replace(h.look, "LOGIN", login, 1)
			return text + ": " + strings.Replace(look, "USER", user, 1)
		}
	}
	return text
}

// isTimeout tells whether the other side went silent, rather than away.
func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// invalidations is the channel on which Redis tells a RESP2 client which keys
// have changed (https://redis.io/docs/latest/develop/reference/client-side-caching/).
const invalidations = "__redis__:invalidate"

// startPush makes Redis push the names of the keys that are read over conn, once
// each, when they change. The connection it returns receives them. refusal is
// why the server does not push, where it does not; err is a broken connection.
func (s *redisSettings) startPush(endpoint string, conn redis.Conn) (push redis.Conn, refusal, err error) {
	push, err = s.dial(endpoint)
	if err != nil {
		return nil, nil, err
	}
	refusal = redirect(conn, push)
	if refusal == nil {
		return push, nil, nil
	}
	_, _ = conn.Do("PING") // a server that was restarted between the two is no balancer
	if conn.Err() != nil || push.Err() != nil {
		err = refusal
	}
	push.Close()
	return nil, refusal, err
}

// redirect asks for the tracking of conn's reads and for the news on push. A
// TCP balancer may have led the two to different servers: REDIRECT accepts any
// number then, and nothing would ever come.
func redirect(conn, push redis.Conn) error {
	reader, err := runID(conn)
	if err != nil {
		return err
	}
	listener, err := runID(push)
	if err != nil {
		return err
	}
	if reader != listener {
		return errors.New("two connections to the endpoint reach different servers")
	}
	if _, err := push.Do("PING"); err != nil {
		return err // without it nobody could tell silence from death
	}
	id, err := redis.Int64(push.Do("CLIENT", "ID"))
	if err != nil {
		return err
	}
	if _, err := push.Do("SUBSCRIBE", invalidations); err != nil {
		return err
	}
	_, err = conn.Do("CLIENT", "TRACKING", "ON", "REDIRECT", id)
	return err
}

// runID returns what identifies the run of the server behind a connection.
func runID(conn redis.Conn) (string, error) {
	info, err := redis.String(conn.Do("INFO", "server"))
	if err != nil {
		return "", err
	}
	_, after, found := strings.Cut(info, "run_id:")
	if !found {
		return "", errors.New("INFO server shows no run_id")
	}
	id, _, _ := strings.Cut(after, "\r")
	return id, nil
}

// change is a message on the push connection: the keys that have changed.
type change struct {
	keys []string
	all  bool // the database was flushed: every key
}

// readChange reads the next message. nil: it was a sign of life.
func readChange(push redis.ConnWithTimeout, timeout time.Duration) (*change, error) {
	reply, err := redis.Values(push.ReceiveWithTimeout(timeout))
	if err != nil {
		return nil, err
	}
	if len(reply) != 3 {
		return nil, nil // the answer to a PING has two parts
	}
	kind, err := redis.String(reply[0], nil)
	if err != nil || kind != "message" {
		return nil, err
	}
	if reply[2] == nil {
		return &change{all: true}, nil
	}
	keys, err := redis.Strings(reply[2], nil)
	if err != nil {
		return nil, err
	}
	return &change{keys: keys}, nil
}
