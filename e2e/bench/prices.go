package main

import (
	"fmt"
	"slices"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// variant is a way to configure the plugin, and Traefik.
type variant struct {
	name      string
	options   stack.Options
	accessLog bool
	secure    bool   // clients speak TLS
	inPath    bool   // there is a route, too, whose key and field are made of the path
	prefix    string // of the names of pages and figures
}

// plain has every option at its default.
var plain = variant{name: "none"}

// secure is the same for clients that speak TLS.
var secure = variant{name: "TLS", secure: true, prefix: "tls-"}

// variants each have one option on, the first none.
var variants = []variant{
	plain,
	{name: "`websocket.idleTimeout: 2m`", options: stack.Options{"websocket": stack.Options{"idleTimeout": "2m"}}},
	{name: "`websocket.maxPerNode: 1000000`", options: stack.Options{"websocket": stack.Options{"maxPerNode": 1_000_000}}},
	{name: "`websocket.closeOnRouteChange: true`", options: stack.Options{"websocket": stack.Options{"closeOnRouteChange": true}}},
	{name: "`websocket.waitForEnd: true`", options: stack.Options{"websocket": stack.Options{"waitForEnd": true}}},
	{name: "`debugHeaders: true`", options: stack.Options{"debugHeaders": true}},
	{name: "Traefik's access log", accessLog: true},
}

// priced is how many sessions the memory is measured with.
const priced = 3000

// measurePrices measures what options cost and writes prices.md.
func measurePrices(g *ground, s settings, out string) error {
	node, err := stack.StartEchoNode()
	if err != nil {
		return err
	}
	defer node.Stop()
	all := map[string]*ground{}
	var gateways []gateway
	for _, v := range variants {
		g, err := newGroundTo(node.Addr(), v)
		if err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
		defer g.stop()
		all[v.name] = g
		plugin := g.gateways()[1]
		plugin.name = v.name
		gateways = append(gateways, plugin)
	}
	r := all[plain.name].page("What options cost, measured", ownClients)
	r.line("Each in a Traefik of its own. CPU of Traefik for a handshake: %d clients, %s. Memory: resident (RssAnon) for each of %d idle sessions of a fresh Traefik, as in sessions.md, measured once.", handshakers, s.inShort(), min(priced, slices.Max(s.sessions)))
	r.head("option", "CPU for a handshake", "to none", "a session, after", "settled", "having talked", "rounds: handshakes a second")
	renew := func() error {
		for _, g := range all {
			if err := g.renew(); err != nil {
				return err
			}
		}
		return nil
	}
	results, err := contest(s, renew, gateways, atOnce(handshake))
	if err != nil {
		return err
	}
	scores := results[0]
	for _, v := range variants {
		all[v.name].stop()
	}
	for _, v := range variants {
		m, err := idle(node.Addr(), v, "plugin", min(priced, slices.Max(s.sessions)), false)
		if err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
		mine := median(of(scores[v.name], cpuEach))
		r.row(v.name, us(mine), fmt.Sprintf("%.2f", float64(mine)/float64(median(of(scores[plain.name], cpuEach)))),
			kB(m.after), kB(m.settled), kB(m.talked), ratesOf(of(scores[v.name], perSecond)))
	}
	if err := silence(node.Addr(), s, r); err != nil {
		return err
	}
	if err := loading(g, s, r); err != nil {
		return err
	}
	return r.write(out, "prices.md")
}
