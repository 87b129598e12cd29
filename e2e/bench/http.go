package main

import (
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// measureHTTP compares the gateways with plain requests and writes http.md.
func measureHTTP(g *ground, s settings, out string) error {
	if err := g.know(1); err != nil {
		return err
	}
	r := g.page("Plain requests, measured")
	r.line("Requests to one node for one route that is known, %d rounds in turns of %d s, medians. \"CPU each\" is the gateway's own processor time, which other things on the machine disturb less than the rate.", s.rounds, s.seconds)
	r.head(heads("clients", "requests", "p50", "p99")...)
	all := g.gateways()
	var groups []group
	for _, clients := range s.clients {
		scores, err := contest(s.rounds, all, func(w gateway) (score, error) {
			var p50, p99 time.Duration
			result, err := scored(w, func() (count int, took time.Duration, err error) {
				count, took, p50, p99, err = g.load.measure("http://"+w.addr+w.target(), clients, s.seconds)
				return count, took, err
			})
			result.p50, result.p99 = p50, p99
			return result, err
		})
		if err != nil {
			return err
		}
		r.results(fmt.Sprintf("http.%d", clients), strconv.Itoa(clients), all, scores)
		groups = append(groups, group{fmt.Sprintf("%d clients", clients), of(all, func(w gateway) float64 { return median(of(scores[w.name], perSecond)) })})
		r.figure("http.plugin.cpu", float64(median(of(scores["plugin"], cpuEach)))/float64(time.Microsecond), "µs")
	}
	if err := r.bars("http.svg", "Plain requests", "requests a second", of(all, gateway.String), groups); err != nil {
		return err
	}
	return r.write(out, "http.md")
}

var (
	requestsIn = regexp.MustCompile(`(\d+) requests in ([\d.a-z]+),`)
	latency    = regexp.MustCompile(`(?m)^\s+(50|99)%\s+([\d.a-z]+)$`)
)

// measure asks for one URL and returns how many requests there were in how long,
// and how long half of them and 99 of 100 took at the most.
func (g generator) measure(url string, clients, seconds int) (count int, took, p50, p99 time.Duration, err error) {
	said, err := g.wrk("-c", strconv.Itoa(clients), "-t", strconv.Itoa(min(loadThreads, clients)), "-d", fmt.Sprintf("%ds", seconds), "--latency", url)
	if err != nil {
		return 0, 0, 0, 0, err
	}
	found := requestsIn.FindSubmatch(said)
	if found == nil {
		return 0, 0, 0, 0, fmt.Errorf("wrk: no number of requests in %s", said)
	}
	if count, err = strconv.Atoi(string(found[1])); err != nil {
		return 0, 0, 0, 0, err
	}
	if took, err = time.ParseDuration(string(found[2])); err != nil {
		return 0, 0, 0, 0, err
	}
	for _, l := range latency.FindAllSubmatch(said, -1) {
		d, err := time.ParseDuration(string(l[2]))
		if err != nil {
			return 0, 0, 0, 0, err
		}
		if string(l[1]) == "50" {
			p50 = d
		} else {
			p99 = d
		}
	}
	return count, took, p50, p99, nil
}
