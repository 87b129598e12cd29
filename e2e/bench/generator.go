package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// generator makes HTTP load with wrk.
type generator struct {
	bin, version string
}

// The load is that of 32 clients that never pause.
const (
	loadThreads = 2
	loadClients = 32
)

func newGenerator() (generator, error) {
	bin, err := exec.LookPath("wrk")
	if err != nil {
		return generator{}, errors.New("no wrk on the PATH: install Debian's package wrk (apt-get install wrk)")
	}
	said, _ := exec.Command(bin, "--version").CombinedOutput() // ends with status 1
	return generator{bin, version.FindString(wordAfter(string(said), "wrk"))}, nil
}

// version finds 4.1.0 in what a distribution may call debian/4.1.0-3.
var version = regexp.MustCompile(`\d+(\.\d+)+`)

func (g generator) what() string { return "wrk " + g.version }

// command is what runs; which routes it asks for, a script says.
func (g generator) command() string {
	return fmt.Sprintf("wrk -c%d -t%d -d%ds", loadClients, loadThreads, turnSeconds)
}

// script makes wrk ask for routes at random. Both sides of a comparison pay for
// it alike.
const script = `
local routes, path = %d, %q
init = function() math.randomseed(os.time() + tonumber(tostring({}):match("0x(%%x+)"), 16) %% 100000) end
request = function()
  return wrk.format("GET", path .. "?nodeName=n" .. math.random(routes) .. "&threadId=1&platform=dev")
end
`

// run asks a path for so many routes at random for a turn and returns how many requests there
// were in how long. A request that fails is an error.
func (g generator) run(url, path string, routes int) (count int, took time.Duration, err error) {
	dir, err := os.MkdirTemp("", "dynamicforward-load-")
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "load.lua")
	if err := os.WriteFile(file, fmt.Appendf(nil, script, routes, path), 0o600); err != nil {
		return 0, 0, err
	}
	count, took, _, _, err = g.measure(url, loadClients, "-s", file)
	return count, took, err
}

var (
	requestsIn = regexp.MustCompile(`(?m)^\s*(\d+) requests in `)
	rateIn     = regexp.MustCompile(`(?m)^Requests/sec:\s+([\d.]+)$`)
	latency    = regexp.MustCompile(`(?m)^\s+(50|99)%\s+([\d.a-z]+)$`)
)

// measure asks for one URL for a turn and returns how many requests there were in how long,
// and how long half of them and 99 of 100 took at the most.
func (g generator) measure(url string, clients int, more ...string) (count int, took, p50, p99 time.Duration, err error) {
	said, err := g.wrk(append(more, "-c", strconv.Itoa(clients), "-t", strconv.Itoa(min(loadThreads, clients)), "-d", fmt.Sprintf("%ds", turnSeconds), "--latency", url)...)
	if err != nil {
		return 0, 0, 0, 0, err
	}
	return read(said)
}

// read reads what wrk says at the end. The time is told by the rate, which has more digits
// than the time that it says.
func read(said []byte) (count int, took, p50, p99 time.Duration, err error) {
	counted, rate, times := requestsIn.FindSubmatch(said), rateIn.FindSubmatch(said), latency.FindAllSubmatch(said, -1)
	if counted == nil || rate == nil || len(times) != 2 || string(times[0][1]) != "50" || string(times[1][1]) != "99" {
		return 0, 0, 0, 0, fmt.Errorf("wrk: no number of requests, rate or latency in %s", said)
	}
	if count, err = strconv.Atoi(string(counted[1])); err != nil {
		return 0, 0, 0, 0, err
	}
	aSecond, err := strconv.ParseFloat(string(rate[1]), 64)
	if err != nil {
		return 0, 0, 0, 0, err
	}
	if count == 0 || aSecond == 0 {
		return 0, 0, 0, 0, errors.New("wrk: no request was answered")
	}
	took = time.Duration(float64(count) / aSecond * float64(time.Second))
	if p50, err = time.ParseDuration(string(times[0][2])); err != nil {
		return 0, 0, 0, 0, err
	}
	p99, err = time.ParseDuration(string(times[1][2]))
	return count, took, p50, p99, err
}

var failures = regexp.MustCompile(`(?m)^\s*(Non-2xx or 3xx responses: .*|Socket errors: .*)$`)

// wrk runs it and returns what it said. A request that fails is an error.
func (g generator) wrk(args ...string) ([]byte, error) {
	said, err := exec.Command(g.bin, args...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("wrk: %w: %s", err, bytes.TrimSpace(said))
	}
	return said, failed(said)
}

// failed is an error where a request has failed.
func failed(said []byte) error {
	if told := failures.Find(said); told != nil {
		return errors.New(string(bytes.TrimSpace(told)))
	}
	return nil
}
