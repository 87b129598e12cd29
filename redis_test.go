package dynamicforward

import (
	"context"
	stdtls "crypto/tls"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/traefik/genconf/dynamic/types"
)

func TestRedisOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	writeFile(t, empty, "\n")
	sentinel := func(c *RedisConfig) { c.Sentinel = &SentinelConfig{MasterName: "game"} }
	for _, c := range []struct {
		set  func(c *RedisConfig)
		want string
	}{
		{func(c *RedisConfig) { c.Endpoints = nil }, "redis.endpoints: missing: set a host:port"},
		{func(c *RedisConfig) { c.Endpoints = []string{"a:1", "b:1"} }, "redis.endpoints: one server has one address, and here are 2: set redis.sentinel.masterName if they are Sentinels, redis.cluster if they are a Cluster, or leave one"},
		{func(c *RedisConfig) { c.Endpoints = []string{"redis.example.com"} }, `redis.endpoints: "redis.example.com" is no host:port: use one such as 127.0.0.1:6379`},
		{func(c *RedisConfig) { c.Endpoints = []string{"redis://a:6379"} }, `redis.endpoints: "redis://a:6379" is no host:port`},
		{func(c *RedisConfig) { c.Endpoints = []string{"redis://:s3cret@a:6379"} }, `redis.endpoints: "…@a:6379" has a user or a password in it: use host:port, redis.username and redis.passwordFile`},
		{func(c *RedisConfig) { c.Endpoints = []string{"a:redis"} }, `redis.endpoints: "a:redis" has no port from 1 to 65535`},
		{func(c *RedisConfig) { c.Endpoints = []string{"a:65536"} }, `redis.endpoints: "a:65536" has no port from 1 to 65535`},
		{func(c *RedisConfig) { c.Endpoints = []string{"a:1", "b"}; sentinel(c) }, `redis.endpoints: "b" is no host:port`},
		{func(c *RedisConfig) { c.Endpoints = []string{"unix://run/redis.sock"} }, `redis.endpoints: "unix://run/redis.sock" names no socket: use unix:///path, with three slashes`},
		{func(c *RedisConfig) { c.Endpoints = []string{"unix://:s3cret@/redis.sock"} }, `redis.endpoints: "…@/redis.sock" names no socket: use unix:///path, with three slashes`},
		{func(c *RedisConfig) { c.Endpoints = []string{"unix:///redis.sock"}; sentinel(c) }, `redis.endpoints: "unix:///redis.sock": Sentinels and the nodes of a Cluster are reached by host:port`},
		{func(c *RedisConfig) { c.Endpoints = []string{"unix:///redis.sock"}; c.Cluster = true }, `redis.endpoints: "unix:///redis.sock": Sentinels and the nodes of a Cluster are reached by host:port`},
		{func(c *RedisConfig) { c.Endpoints = []string{"unix:///redis.sock"}; c.TLS = &types.ClientTLS{} }, `redis.tls: Redis speaks no TLS on the unix socket "unix:///redis.sock": remove redis.tls`},
		{func(c *RedisConfig) { c.Cluster = true; c.DB = 3 }, "redis.db: a Cluster has database 0 alone: remove redis.db (3) or redis.cluster"},
		{func(c *RedisConfig) { c.Cluster = true; sentinel(c) }, "redis.sentinel: a Cluster has no Sentinels: remove redis.sentinel or redis.cluster"},
		{func(c *RedisConfig) { c.Sentinel = &SentinelConfig{} }, "redis.sentinel.masterName: missing: set the name that SENTINEL MASTERS shows"},
		{func(c *RedisConfig) { sentinel(c); c.Sentinel.Username = "u" }, "redis.sentinel.username: needs redis.sentinel.password"},
		{func(c *RedisConfig) { c.Username = "u" }, "redis.username: needs redis.password or redis.passwordFile"},
		{func(c *RedisConfig) { c.Password = "p"; c.PasswordFile = empty }, "redis.passwordFile: there is redis.password too: remove one of them"},
		{func(c *RedisConfig) { c.PasswordFile = filepath.Join(dir, "none") }, "redis.passwordFile: open " + filepath.Join(dir, "none")},
		{func(c *RedisConfig) { c.PasswordFile = "s3cret" }, "redis.passwordFile: what it names, if it is a file, cannot be read: no such file or directory: use a path that begins with /"},
		{func(c *RedisConfig) { c.PasswordFile = empty }, "redis.passwordFile: " + empty + " is empty: write the password into it"},
		{func(c *RedisConfig) { c.TLS = &types.ClientTLS{Cert: "/c.pem"} }, "redis.tls.cert: needs its key: set redis.tls.key"},
		{func(c *RedisConfig) { c.TLS = &types.ClientTLS{Key: "/c.key"} }, "redis.tls.key: needs the certificate that it belongs to: set redis.tls.cert"},
		{func(c *RedisConfig) { c.TLS = &types.ClientTLS{Cert: empty, Key: empty} }, "redis.tls.cert and redis.tls.key: tls: failed to find any PEM data"},
		{func(c *RedisConfig) { c.TLS = &types.ClientTLS{Cert: "/none.pem", Key: empty} }, "redis.tls.cert: open /none.pem"},
		{func(c *RedisConfig) { c.TLS = &types.ClientTLS{Cert: empty, Key: strings.Repeat("TUlJRXZn", 100)} }, "redis.tls.key: what it names, if it is a file, cannot be read: file name too long: use a path that begins with /"},
		{func(c *RedisConfig) { c.TLS = &types.ClientTLS{CA: "/none.pem"} }, "redis.tls.ca: open /none.pem"},
		{func(c *RedisConfig) { c.TLS = &types.ClientTLS{CA: " /none.pem"} }, "redis.tls.ca: open /none.pem"},
		{func(c *RedisConfig) { c.TLS = &types.ClientTLS{CA: empty} }, "redis.tls.ca: no certificate found: each must be a PEM, or the path of one"},
		{func(c *RedisConfig) { c.TLS = &types.ClientTLS{CAOptional: true} }, "redis.tls.caOptional: means nothing to a client"},
	} {
		config := testConfig("127.0.0.1:1")
		c.set(&config.Redis)
		ctx, cancel := context.WithCancel(context.Background())
		handler, err := New(ctx, http.NotFoundHandler(), config, "test")
		cancel()
		if err == nil || !strings.HasPrefix(err.Error(), "dynamicforward test: "+c.want) || handler != nil {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

// writeFile replaces a file.
func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// testSettings checks the redis options.
func testSettings(t *testing.T, endpoint string, change func(c *RedisConfig)) *redisSettings {
	t.Helper()
	config := testConfig(endpoint)
	if change != nil {
		change(&config.Redis)
	}
	settings, err := newRedisSettings(&config.Redis)
	if err != nil {
		t.Fatal(err)
	}
	return settings
}

func TestThePasswordFileIsReadAtEachConnection(t *testing.T) {
	redis := newPushingRedis(t)
	redis.user("gateway", "one")
	file := filepath.Join(t.TempDir(), "password")
	writeFile(t, file, "one\n")
	table := testTable(t, redis.addr, func(c *Config) {
		c.Redis.Username = "gateway"
		c.Redis.PasswordFile = file
	})
	redis.user("gateway", "two")
	writeFile(t, file, "two\r\n")
	redis.disconnect()
	redis.awaitCount("SUBSCRIBE", 2)
	waitFor(t, "the link", table.connected)
	if log := strings.Join(redis.commands(), "\n"); strings.Count(log, "AUTH gateway one") != 2 || strings.Count(log, "AUTH gateway two") != 2 {
		t.Errorf("each connection wants the password of its time:\n%s", log)
	}
}

// What a server says when it does not let us in names the option to look at.
func TestErrorsOfAConnectionNameTheOption(t *testing.T) {
	for _, c := range []struct {
		command string
		reply   string
		want    string
	}{
		{"AUTH", "-WRONGPASS invalid username-password pair or user is disabled.", ": look at redis.username, redis.password and redis.passwordFile"},
		{"AUTH", "-ERR AUTH <password> called without any password configured for the default user.", ": the server has no password: look at redis.username, redis.password and redis.passwordFile"},
		{"AUTH", "-ERR invalid password", ": look at redis.username, redis.password and redis.passwordFile"},
		{"AUTH", "-ERR wrong number of arguments for 'auth' command", ": the server has no users (Redis before 6): look at redis.username, redis.password and redis.passwordFile"},
		{"SELECT", "-ERR DB index is out of range", ": look at redis.db"},
		{"SELECT", "-ERR SELECT is not allowed in cluster mode", ": the server is part of a Cluster: set redis.cluster and remove redis.db"},
		{"SELECT", "-NOPERM this user has no permissions to run the 'select' command", ": look at the ACL rules of redis.username"},
		{"PING", "-NOAUTH Authentication required.", ": the server wants a password: look at redis.username, redis.password and redis.passwordFile"},
		{"PING", "-LOADING Redis is loading the dataset in memory", ": the server is reading its data from disk, and is tried again until it is done; is it the one that redis.endpoints means?"},
		{"PING", "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", ": the server is a replica that has lost its master: look at redis.endpoints, and at redis.sentinel if there are Sentinels"},
		{"PING", "-DENIED Redis is running in protected mode", ": the server is in protected mode: give it a password, or bind it to an address"},
		{"PING", "-ERR max number of clients reached", ": look at the server's maxclients"},
	} {
		redis := newFakeRedis(t)
		redis.user("gateway", "s3cret")
		reply := c.reply + "\r\n"
		say := func(_ *fakeRedisConn, _ []string) string { return reply }
		redis.handle(c.command, say)
		settings := testSettings(t, redis.addr, func(r *RedisConfig) {
			r.Username = "gateway"
			r.Password = "s3cret"
			r.DB = 3
		})
		_, err := settings.dial(redis.addr)
		if err == nil {
			t.Errorf("%s: connected", c.reply)
			continue
		}
		if got := wording(err); got != c.reply[1:]+c.want {
			t.Errorf("got  %s\nwant %s", got, c.reply[1:]+c.want)
		}
		redis.awaitOpen(0)
	}
}

// A server that does not know AUTH repeats what it was sent.
func TestAPasswordIsInNoError(t *testing.T) {
	redis := newFakeRedis(t)
	repeat := func(_ *fakeRedisConn, args []string) string {
		said := "'" + strings.Join(args[1:], "' '")
		if len(said) > 128 {
			said = said[:128]
		}
		return "-ERR unknown command 'AUTH', with args beginning with: " + said + "'\r\n"
	}
	odd := func(_ *fakeRedisConn, args []string) string {
		return "-ERR what is " + args[len(args)-1] + "?\r\n"
	}
	for _, answer := range []func(_ *fakeRedisConn, args []string) string{repeat, odd} {
		redis.handle("AUTH", answer)
		for _, username := range []string{"", "gateway"} {
			for _, password := range []string{"s3cret", strings.Repeat("s3cret", 50)} { // Redis repeats 128 bytes
				settings := testSettings(t, redis.addr, func(r *RedisConfig) {
					r.Username = username
					r.Password = password
				})
				_, err := settings.dial(redis.addr)
				if err == nil || strings.Contains(err.Error(), "s3c") || !strings.HasPrefix(err.Error(), "ERR ") {
					t.Errorf("got %v", err)
				}
			}
		}
	}
}

// A text, such as a label, becomes a list by its commas alone.
func TestEndpointsMayHaveSpaceBetweenThem(t *testing.T) {
	settings := testSettings(t, "", func(r *RedisConfig) {
		r.Endpoints = []string{"a:1", " b:2", "c:3 "}
		r.Sentinel = &SentinelConfig{MasterName: "game"}
	})
	if got := strings.Join(settings.endpoints, "|"); got != "a:1|b:2|c:3" {
		t.Errorf("the endpoints are %s", got)
	}
}

// A server that still reads its data takes connections, and knows nothing yet.
func TestARedisThatIsLoadingIsNotThereYet(t *testing.T) {
	redis := redisWith(t, "a", "1", "10.0.0.1:1")
	loading := func(_ *fakeRedisConn, _ []string) string { return "-LOADING Redis is loading\r\n" }
	redis.handle("PING", loading)
	settings := testSettings(t, redis.addr, nil)
	cache, err := newTableSettings(&testConfig(redis.addr).Cache)
	if err != nil {
		t.Fatal(err)
	}
	table := newTable(settings, cache)
	table.source.start()
	end := func() { table.close() }
	t.Cleanup(end)
	await(t, table, "a", "1", "redis-down: LOADING Redis is loading: the server is reading its data from disk")
	redis.awaitCount("PING", 2) // it is tried again
	if n := redis.count("HGET"); n != 0 || table.connected() {
		t.Errorf("asked %d times", n)
	}
	redis.handle("PING", redis.ping)
	await(t, table, "a", "1", "10.0.0.1:1")
}

// Without the permission for PING a push connection would seem dead.
func TestWithoutPINGNothingIsPushed(t *testing.T) {
	redis := redisWith(t, "a", "1", "10.0.0.1:1")
	forbidden := func(_ *fakeRedisConn, _ []string) string {
		return "-NOPERM this user has no permissions to run the 'ping' command\r\n"
	}
	redis.handle("PING", forbidden)
	table := testTable(t, redis.addr, nil)
	expect(t, table, "a", "1", "10.0.0.1:1")
	if table.source.session(0).push != nil {
		t.Error("expects changes to be pushed")
	}
}

// A unix socket is dialed as one: what comes over it goes to a fake Redis.
func TestRedisOverAUnixSocket(t *testing.T) {
	redis := newFakeRedis(t)
	redis.hset("a", "1", "10.0.0.1:1")
	socket := filepath.Join(t.TempDir(), "redis.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	carry := func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", redis.addr)
			if err != nil {
				return
			}
			go io.Copy(from, to)
			go io.Copy(to, from)
		}
	}
	go carry()
	table := testTable(t, "unix://"+socket, nil)
	expect(t, table, "a", "1", "10.0.0.1:1")
}

func TestRedisOverTLS(t *testing.T) {
	web := httptest.NewTLSServer(nil) // has a certificate for 127.0.0.1
	defer web.Close()
	redis := newFakeRedisTLS(t, &stdtls.Config{Certificates: web.TLS.Certificates})
	redis.hset("a", "1", "10.0.0.1:1")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	writeFile(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})))
	content, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	for _, options := range []*types.ClientTLS{{CA: ca}, {CA: string(content)}, {InsecureSkipVerify: true}} {
		tls := options
		table := testTable(t, redis.addr, func(c *Config) { c.Redis.TLS = tls })
		expect(t, table, "a", "1", "10.0.0.1:1")
	}

	settings := testSettings(t, redis.addr, func(r *RedisConfig) { r.TLS = &types.ClientTLS{} })
	if _, err := settings.dial(redis.addr); err == nil || !strings.HasSuffix(wording(err), ": look at redis.tls.ca and at the host names in redis.endpoints") {
		t.Errorf("an unknown authority: %v", err)
	}
	settings = testSettings(t, redis.addr, func(r *RedisConfig) { r.TLS = &types.ClientTLS{CA: ca} })
	_, port, _ := net.SplitHostPort(redis.addr)
	if _, err := settings.dial("localhost:" + port); err == nil || !strings.HasSuffix(wording(err), ": look at redis.tls.ca and at the host names in redis.endpoints") {
		t.Errorf("a name that is not in the certificate: %v", err)
	}
	plain := testSettings(t, redis.addr, nil)
	if _, err := plain.dial(redis.addr); err == nil || !strings.HasSuffix(wording(err), ": if it wants TLS, set redis.tls") {
		t.Errorf("no TLS to a server that wants it: %v", err)
	}
}

// A server that speaks no TLS waits for the rest of what it takes for a command.
func TestATLSHandshakeIsBounded(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	address := listener.Addr().String()
	settings := testSettings(t, address, func(r *RedisConfig) {
		r.TLS = &types.ClientTLS{}
		r.DialTimeout = "500ms"
	})
	_, err = settings.dial(address)
	if err == nil || !isTimeout(err) || !strings.HasSuffix(wording(err), ": if the server speaks no TLS, remove redis.tls") {
		t.Errorf("got %v", err)
	}
}
