package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// gatewayRule is the least that an ACL user needs, as README.md has it, for
// the default key template: keys and channel first, then commands.
var gatewayRule = []string{
	"~game-server_*", "resetchannels", "&__redis__:invalidate", "-@all",
	"+hget", "+ping", "+info", "+subscribe", "+client|id", "+client|tracking",
}

// What other ways need beside it.
var (
	dbRule       = []string{"+select"}
	masterRule   = []string{"+role"}
	clusterRule  = []string{"+cluster|slots", "+asking"}
	sentinelRule = []string{"resetchannels", "&+switch-master", "-@all", "+ping", "+subscribe", "+sentinel|get-master-addr-by-name"}
)

// The rules in the documentation are those that the tests use.
func TestDocumentedACLRules(t *testing.T) {
	doc, err := os.ReadFile("../README.md")
	must(t, err)
	for _, rule := range [][]string{gatewayRule, dbRule, masterRule, clusterRule, sentinelRule} {
		text := strings.Join(rule, " ")
		if !strings.Contains(strings.ReplaceAll(string(doc), `\|`, "|"), text) {
			t.Errorf("README.md does not have %q", text)
		}
	}
}

const gatewayPassword = "s3cret-gateway"

// doer is anything that takes a Redis command.
type doer interface {
	Do(command string, args ...any) (any, error)
}

// addUser makes the user gateway, who may do what the rules say.
func addUser(t *testing.T, r doer, rules ...[]string) {
	t.Helper()
	args := []any{"SETUSER", "gateway", "reset", "on", ">" + gatewayPassword}
	for _, rule := range slices.Concat(rules...) {
		args = append(args, rule)
	}
	_, err := r.Do("ACL", args...)
	must(t, err)
}

// user are the redis options of that user, with more merged in.
func user(more stack.Options) stack.Options {
	o := stack.Options{"username": "gateway", "password": gatewayPassword}
	maps.Copy(o, more)
	return o
}

// onto makes a world around a Redis that runs already, reached by these redis
// options; no route is read again by age.
func onto(t *testing.T, r *stack.Redis, link stack.Options) *world {
	t.Helper()
	w := &world{
		t: t, redis: r,
		a: startNode(t, stack.NodeOptions{Name: "a", Keep: 10}),
		b: startNode(t, stack.NodeOptions{Name: "b", Keep: 10}),
	}
	options := stack.Options{"redis": link, "cache": stack.Options{"ttl": "1h"}}
	w.conf = stack.Game(options).YAML()
	w.traefik = start(t, stack.TraefikOptions{Dynamic: w.conf})
	transport := &http.Transport{MaxIdleConnsPerHost: 256}
	t.Cleanup(transport.CloseIdleConnections)
	w.client = &http.Client{Transport: transport, Timeout: time.Minute}
	return w
}

// pushed checks that a route is found, that a move is pushed, and that a name
// that comes is.
func (w *world) pushed() {
	w.t.Helper()
	name, newcomer := w.warm(1)[0], nobody()
	w.want(newcomer, unknownNode)
	w.put(name, w.b)
	w.becomes(name, "b")
	w.put(newcomer, w.b)
	w.becomes(newcomer, "b")
	if log := w.traefik.Log(); strings.Contains(log, "dynamicforward redis") || strings.Contains(log, "s3cret") {
		w.t.Errorf("the log says:\n%s", w.traefik.Tail(10))
	}
}

// connected waits until unknown names are unknown rather than unanswered.
func (w *world) connected() {
	w.t.Helper()
	eventually(w.t, "Redis is reached", func() bool { return w.ask(nobody()) == unknownNode })
}

func TestRequirepass(t *testing.T) {
	r := startRedis(t, stack.RedisOptions{Password: "s3cret"})
	onto(t, r, stack.Options{"endpoints": []string{r.Addr()}, "password": "s3cret"}).pushed()
}

func TestACLUser(t *testing.T) {
	r := startRedis(t, stack.RedisOptions{})
	addUser(t, r, gatewayRule)
	onto(t, r, user(stack.Options{"endpoints": []string{r.Addr()}})).pushed()
}

func TestDatabase(t *testing.T) {
	r := startRedis(t, stack.RedisOptions{})
	addUser(t, r, gatewayRule, dbRule)
	w := onto(t, r, user(stack.Options{"endpoints": []string{r.Addr()}, "db": 3}))
	name := nobody()
	w.put(name, w.b) // in database 0
	w.want(name, unknownNode)
	do(t, r, "SELECT", 3)
	w.put(name, w.a)
	w.becomes(name, "a")
	w.pushed()
}

func TestUnixSocket(t *testing.T) {
	r := startRedis(t, stack.RedisOptions{UnixSocket: true})
	addUser(t, r, gatewayRule)
	onto(t, r, user(stack.Options{"endpoints": []string{"unix://" + r.Socket()}})).pushed()
}

// Without any one of its commands the rule is too little, and the log names the
// command.
func TestACLRuleIsTheLeast(t *testing.T) {
	r := startRedis(t, stack.RedisOptions{})
	conf := stack.Game(redisAt(r))
	for i, rule := range gatewayRule {
		if !strings.HasPrefix(rule, "+") && !strings.HasPrefix(rule, "&") {
			continue
		}
		name := fmt.Sprintf("without%d", i)
		do(t, r, "ACL", "SETUSER", name, "reset", "on", ">"+gatewayPassword)
		for j, other := range gatewayRule {
			if i != j {
				do(t, r, "ACL", "SETUSER", name, other)
			}
		}
		conf.Routers[name] = stack.Router{Rule: "Path(`/" + name + "`)", Middlewares: []string{name}}
		conf.Middlewares[name] = stack.Options{
			"redis": stack.Options{"endpoints": []string{r.Addr()}, "username": name, "password": gatewayPassword},
			"cache": stack.Options{"ttl": fmt.Sprintf("%dh", i+1)}, // each has a link of its own
		}
	}
	own := start(t, stack.TraefikOptions{Dynamic: conf.YAML()})
	c := newClient(t)
	for i, rule := range gatewayRule {
		path := fmt.Sprintf("/without%d", i)
		switch {
		case rule == "+hget":
			resp, err := c.Get(own.URL() + path + query(nobody()))
			must(t, err)
			resp.Body.Close()
			if resp.StatusCode != 503 {
				t.Errorf("without +hget: %s", resp.Status)
			}
		case strings.HasPrefix(rule, "+"):
			eventually(t, "the log tells that "+rule+" is missing", func() bool {
				return hasLine(own.Log(), "does not push changes", "'"+rule[1:]+"'", "look at the ACL rules of redis.username")
			})
		case strings.HasPrefix(rule, "&"):
			eventually(t, "the log tells that the channel is missing", func() bool {
				return hasLine(own.Log(), "does not push changes", "channel", "look at the ACL rules of redis.username")
			})
		}
	}
}

// A password that changes is read from its file at the next connection; until
// the file has it, known routes are served.
func TestPasswordFileIsRotated(t *testing.T) {
	r := startRedis(t, stack.RedisOptions{})
	addUser(t, r, gatewayRule)
	file := filepath.Join(t.TempDir(), "password")
	must(t, os.WriteFile(file, []byte(gatewayPassword+"\n"), 0o600))
	w := onto(t, r, stack.Options{"endpoints": []string{r.Addr()}, "username": "gateway", "passwordFile": file})
	w.pushed()

	known := w.warm(1)[0]
	do(t, r, "ACL", "SETUSER", "gateway", "resetpass", ">s3cret-new")
	do(t, r, "CLIENT", "KILL", "USER", "gateway")
	eventually(t, "the old password is refused", func() bool {
		w.want(known, "a")
		return w.ask(nobody()) == redisDown
	})
	eventually(t, "the log names the option", func() bool {
		return hasLine(w.traefik.Log(), "WRONGPASS", "redis.passwordFile")
	})
	must(t, os.WriteFile(file, []byte("s3cret-new\r\n"), 0o600))
	w.connected()
	w.put(known, w.b)
	w.becomes(known, "b")
	if strings.Contains(w.traefik.Log(), "s3cret") {
		t.Error("the log tells a password")
	}
}

// tlsRedis starts a Redis that also listens for TLS, and returns the address.
func tlsRedis(t *testing.T, authority *stack.Authority, clients string) (*stack.Redis, string) {
	t.Helper()
	cert, key, err := authority.Sign("server")
	must(t, err)
	port, err := stack.FreePort()
	must(t, err)
	r := startRedis(t, stack.RedisOptions{Args: []string{
		"--tls-port", fmt.Sprint(port), "--tls-cert-file", cert, "--tls-key-file", key,
		"--tls-ca-cert-file", authority.File, "--tls-auth-clients", clients,
	}})
	addUser(t, r, gatewayRule)
	return r, fmt.Sprintf("127.0.0.1:%d", port)
}

func newAuthority(t *testing.T) *stack.Authority {
	t.Helper()
	authority, err := stack.NewAuthority(t.TempDir())
	must(t, err)
	return authority
}

func TestTLSWithOwnAuthority(t *testing.T) {
	authority := newAuthority(t)
	r, addr := tlsRedis(t, authority, "no")
	w := onto(t, r, user(stack.Options{"endpoints": []string{addr}, "tls": stack.Options{"ca": authority.File}}))
	w.pushed()

	pem, err := os.ReadFile(authority.File)
	must(t, err)
	for what, tls := range map[string]stack.Options{
		"the PEM itself":     {"ca": string(pem)},
		"insecureSkipVerify": {"insecureSkipVerify": true},
	} {
		path := route(t, stack.Options{"redis": user(stack.Options{"endpoints": []string{addr}, "tls": tls})})
		name := nobody()
		w.put(name, w.a)
		if resp := get(t, path+query(name)); resp.StatusCode != 200 {
			t.Errorf("%s: %s: %s", what, resp.Status, resp.body)
		}
	}
}

func TestMutualTLS(t *testing.T) {
	authority := newAuthority(t)
	r, addr := tlsRedis(t, authority, "yes")
	cert, key, err := authority.Sign("gateway")
	must(t, err)
	w := onto(t, r, user(stack.Options{"endpoints": []string{addr}, "tls": stack.Options{
		"ca": authority.File, "cert": cert, "key": key,
	}}))
	w.pushed()

	// A new certificate is read at the next connection.
	known := w.warm(1)[0]
	for _, file := range []string{cert, key} {
		must(t, os.Rename(file, file+".away"))
	}
	do(t, r, "CLIENT", "KILL", "USER", "gateway")
	eventually(t, "the certificate is missed", func() bool {
		w.want(known, "a")
		return hasLine(w.traefik.Log(), "redis.tls.cert", "no such file")
	})
	_, _, err = authority.Sign("gateway")
	must(t, err)
	w.connected()
}

// What goes wrong with TLS is logged with the option to look at.
func TestTLSThatFailsIsExplained(t *testing.T) {
	authority, other := newAuthority(t), newAuthority(t)
	plain := startRedis(t, stack.RedisOptions{})
	_, addr := tlsRedis(t, authority, "yes")
	cert, key, err := other.Sign("stranger")
	must(t, err)
	for _, c := range []struct {
		addr string
		tls  stack.Options
		log  []string
	}{
		{addr, nil, []string{"if it wants TLS, set redis.tls"}},
		{plain.Addr(), stack.Options{"ca": authority.File}, []string{"if the server speaks no TLS, remove redis.tls"}},
		{addr, stack.Options{"ca": other.File}, []string{"x509: certificate signed by unknown authority", "redis.tls.ca"}},
		{addr, stack.Options{"ca": authority.File}, []string{"redis.tls.cert and redis.tls.key"}},
		{addr, stack.Options{"ca": authority.File, "cert": cert, "key": key}, []string{"redis.tls.cert and redis.tls.key"}},
	} {
		link := stack.Options{"endpoints": []string{c.addr}}
		if c.tls != nil {
			link["tls"] = c.tls
		}
		w := onto(t, plain, link)
		w.want(nobody(), redisDown)
		eventually(t, "the log says "+strings.Join(c.log, " and "), func() bool {
			return hasLine(w.traefik.Log(), append([]string{"dynamicforward redis " + c.addr}, c.log...)...)
		})
	}
}
