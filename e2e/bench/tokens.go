package main

import (
	"fmt"
	"sync/atomic"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// measureTokens says what a handshake takes whose query string is never the same, or whose
// node is named in its path, and writes tokens.md.
func measureTokens(s settings, out string) error {
	node, err := stack.StartEchoNode()
	if err != nil {
		return err
	}
	defer node.Stop()
	g, err := newGroundTo(node.Addr(), variant{name: "none", inPath: true})
	if err != nil {
		return err
	}
	defer g.stop()
	r := g.page("Tokens, measured", ownClients)
	r.line("CPU of Traefik for a handshake with the end of its session: %d clients, %s. A token is a parameter that the plugin does not need, of 32 characters that no request has had before.", handshakers, s.inShort())
	var used atomic.Int64
	token := func() string { return fmt.Sprintf("token=%032x", used.Add(1)) }
	static, plugin := g.gateways()[0], g.gateways()[1]
	inPath := plugin
	inPath.path = "/path/dev/n1/1"
	var all []gateway
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
	r.head(heads("clients", "handshakes")...)
	results, err := contest(s, g.renew, all, atOnce(handshake))
	if err != nil {
		return err
	}
	r.results("token", fmt.Sprint(handshakers), all, results[0])
	return r.write(out, "tokens.md")
}
