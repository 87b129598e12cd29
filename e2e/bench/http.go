package main

import (
	"fmt"
	"strconv"
	"time"
)

// measureHTTP compares the gateways with plain requests and writes http.md.
func measureHTTP(g *ground, s settings, out string) error {
	if err := g.put("n1", g.node.Addr()); err != nil {
		return err
	}
	r := g.page("Plain requests, measured", g.load.what())
	r.line("Requests to one node for one route that is known; %s. \"CPU each\" is the gateway's own processor time, which other things on the machine disturb less than the rate; p50 and p99 are medians of the turns, in each of which the clients connect anew; they are wrk's, which counts a pause as the requests, too, that would have been made in it. %s \"Traefik, forwarding nothing\" answers with two letters of its own (`ping@internal`): what is left of a request when there is no node to ask, so the least that one can take in Traefik.", s.inShort(), rivals)
	r.head(heads("clients", "requests", "p50", "p99")...)
	all := append(g.gateways(), g.itself())
	results, err := contest(s, g.renew, all, of(s.clients, g.requests)...)
	if err != nil {
		return err
	}
	var groups []group
	var dearest time.Duration // of the plugin, with as many clients as make it so
	for i, clients := range s.clients {
		scores := results[i]
		r.results(fmt.Sprintf("http.%d", clients), strconv.Itoa(clients), all, scores)
		groups = append(groups, group{fmt.Sprintf("%d clients", clients), of(all, func(w gateway) float64 { return median(of(scores[w.name], perSecond)) })})
		dearest = max(dearest, median(of(scores["plugin"], cpuEach)))
	}
	r.figure("http.plugin.cpu", float64(dearest)/float64(time.Microsecond), "µs")
	if err := r.bars("http.svg", "Plain requests", "requests a second", of(all, gateway.String), groups); err != nil {
		return err
	}
	return r.write(out, "http.md")
}

// requests has so many clients make plain requests.
func (g *ground) requests(clients int) trial {
	return atOnce(func(w gateway) (tally, error) {
		var p50, p99 time.Duration
		result, err := tallied(w, func() (count int, took time.Duration, err error) {
			count, took, p50, p99, err = g.load.measure("http://"+w.addr+w.target(), clients)
			return count, took, err
		})
		result.p50, result.p99 = p50, p99
		return result, err
	})
}
