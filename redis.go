package dynamicforward

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"
)

// redisSettings is a checked RedisConfig.
type redisSettings struct {
	endpoint     string
	username     string
	password     string
	db           int
	dialTimeout  time.Duration
	readTimeout  time.Duration
	writeTimeout time.Duration
	identity     string // equal for equal settings
}

// newRedisSettings checks the redis options. The error names the option.
func newRedisSettings(config *RedisConfig) (*redisSettings, error) {
	s := &redisSettings{username: config.Username, password: config.Password, db: config.DB}
	if len(config.Endpoints) != 1 {
		return nil, fmt.Errorf("redis.endpoints: needs one host:port, such as 127.0.0.1:6379, and has %d", len(config.Endpoints))
	}
	s.endpoint = config.Endpoints[0]
	if host, port, err := net.SplitHostPort(s.endpoint); err != nil || host == "" || port == "" {
		return nil, fmt.Errorf("redis.endpoints: %q is no host:port: use one such as 127.0.0.1:6379", s.endpoint)
	}
	if s.username != "" && s.password == "" {
		return nil, errors.New("redis.username: needs redis.password")
	}
	if s.db < 0 {
		return nil, fmt.Errorf("redis.db: %d is no database: use 0 or more", s.db)
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

// dial makes a connection: AUTH and SELECT are sent where they are configured.
func (s *redisSettings) dial() (redis.Conn, error) {
	conn, err := redis.Dial("tcp", s.endpoint,
		redis.DialConnectTimeout(s.dialTimeout),
		redis.DialReadTimeout(s.readTimeout),
		redis.DialWriteTimeout(s.writeTimeout),
		redis.DialUsername(s.username),
		redis.DialPassword(s.password),
		redis.DialDatabase(s.db),
	)
	return conn, err
}

// wording turns an error of the server or of the connection into words that name
// the option to look at. What redigo says never contains a password.
func wording(err error) string {
	text := err.Error()
	for _, w := range []struct{ prefix, look string }{
		{"WRONGPASS", "look at redis.username and redis.password"},
		{"NOAUTH", "the server wants a password: set redis.password"},
		{"ERR AUTH", "look at redis.password"},
		{"ERR Client sent AUTH", "the server has no password: remove redis.password"},
		{"ERR DB index", "look at redis.db"},
		{"NOPERM", "look at the ACL rules of redis.username"},
	} {
		if strings.HasPrefix(text, w.prefix) {
			return text + ": " + w.look
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
func (s *redisSettings) startPush(conn redis.Conn) (push redis.Conn, refusal, err error) {
	push, err = s.dial()
	if err != nil {
		return nil, nil, err
	}
	refusal = redirect(conn, push)
	if refusal == nil {
		return push, nil, nil
	}
	err = conn.Err()
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
func readChange(push redis.Conn, timeout time.Duration) (*change, error) {
	reply, err := redis.Values(redis.ReceiveWithTimeout(push, timeout))
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
