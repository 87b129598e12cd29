package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// measureTokens says what a handshake and a plain request take whose query string is never the
// same, or whose node is named in its path, and writes tokens.md.
func measureTokens(s settings, out string) error {
	node, err := stack.StartEchoNode()
	if err != nil {
		return err
	}
	defer node.Stop()
	g, err := newGroundAt(standing(node.Addr()), asked)
	defer g.stop()
	if err != nil {
		return err
	}
	fast, err := stack.StartFastNode()
	if err != nil {
		return err
	}
	plain, err := newGroundAt(fast, asked)
	defer plain.stop()
	if err != nil {
		return err
	}
	r := g.page("Tokens, measured", ownClients)
	r.line("CPU of Traefik for a handshake with the end of its session, of %d clients, and for a plain request to %s, of %d clients with a connection each; %s. A token is a parameter that the plugin does not need, of 32 characters that no request has had before.", handshakers, plain.node.What(), askers, s.inShort())
	for _, c := range []struct {
		title, what, key string
		clients          int
		on               *ground
		trial            trial
	}{
		{"Handshakes", "handshakes", "token", handshakers, g, atOnce(handshake)},
		{"Plain requests", "requests", "token.plain", askers, plain, ask},
	} {
		if err := c.on.put("n1", c.on.node.Addr()); err != nil {
			return err
		}
		all := withTokens(c.on)
		results, err := contest(s, c.on.renew, all, c.trial)
		if err != nil {
			return err
		}
		r.section(c.title)
		r.head(heads("clients", c.what)...)
		r.results(c.key, strconv.Itoa(c.clients), all, results[0])
	}
	return r.write(out, "tokens.md")
}

// asked has a second route by the plugin, that of requests that name their node in the path.
var asked = variant{name: "none", inPath: true}

// withTokens are the ways of requests with tokens and without.
func withTokens(g *ground) (all []gateway) {
	var used atomic.Int64
	token := func() string { return fmt.Sprintf("token=%032x", used.Add(1)) }
	static, plugin := g.gateways()[0], g.gateways()[1]
	inPath := plugin
	inPath.path = "/path/dev/n1/1"
	for _, c := range []struct {
		key, name string
		of        gateway
		query     func() string
	}{
		{"static", "static Traefik route, with a token", static, func() string { return toN1 + "&" + token() }},
		{"none", "plugin, without one", plugin, nil},
		{"behind", "plugin, a token behind the parameters that it needs", plugin, func() string { return toN1 + "&" + token() }},
		{"before", "plugin, a token before them", plugin, func() string { return token() + "&" + toN1 }},
		{"path", "plugin, a token in the query string, and all that it needs in the path", inPath, token},
	} {
		c.of.key, c.of.name, c.of.query = c.key, c.name, c.query
		all = append(all, c.of)
	}
	return all
}

// askers is how many clients make plain requests at a time.
const askers = 32

// ask has clients make plain requests, each over one connection.
func ask(w gateway) (turn func() (tally, error), end func(), err error) {
	var clients []net.Conn
	var answers []*bufio.Reader
	end = func() {
		for _, c := range clients {
			c.Close()
		}
	}
	for range askers {
		c, err := connect(w)
		if err != nil {
			return nil, end, fmt.Errorf("%s: %w", w.name, err)
		}
		clients, answers = append(clients, c), append(answers, bufio.NewReader(c))
	}
	return func() (tally, error) {
		return tallied(w, func() (int, time.Duration, error) {
			return repeat(askers, turnSeconds, func(i int) error { return get(clients[i], answers[i], w) })
		})
	}, end, nil
}

// get makes a plain request on a connection.
func get(c net.Conn, answers *bufio.Reader, w gateway) error {
	if _, err := io.WriteString(c, "GET "+w.target()+" HTTP/1.1\r\nHost: game.example.com\r\n\r\n"); err != nil {
		return err
	}
	response, err := http.ReadResponse(answers, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("got %s", response.Status)
	}
	_, err = io.Copy(io.Discard, response.Body)
	return err
}
