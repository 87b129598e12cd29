package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// measureSessions compares the gateways with WebSocket sessions and writes
// sessions.md.
func measureSessions(_ *ground, s settings, out string) error {
	node, err := stack.StartEchoNode()
	if err != nil {
		return err
	}
	defer node.Stop()
	g, err := newGroundTo(node.Addr())
	if err != nil {
		return err
	}
	defer g.stop()
	if err := g.startOpenResty(); err != nil {
		return err
	}
	if err := g.put("n1", node.Addr()); err != nil {
		return err
	}
	r := g.page("Sessions, measured")
	for _, measure := range []func(*ground, settings, *report) error{handshakes, messages, memory} {
		if err := measure(g, s, r); err != nil {
			return err
		}
	}
	return r.write(out, "sessions.md")
}

const handshakers = 16

// handshakes measures how many sessions a second can begin.
func handshakes(g *ground, s settings, r *report) error {
	r.line("")
	r.line("## Handshakes")
	r.line("")
	r.line("%d clients that open a session, wait for the 101 and reset the connection, without a pause; %d rounds in turns of %d s, medians.", handshakers, s.rounds, s.seconds)
	r.head(heads("clients", "handshakes")...)
	all := g.gateways()
	scores, err := contest(s.rounds, all, func(w gateway) (score, error) {
		return scored(w, func() (int, time.Duration, error) {
			return repeat(handshakers, s.seconds, func(int) error {
				c, err := begin(w)
				if err == nil {
					_ = c.SetLinger(0)
					c.Close()
				}
				return err
			})
		})
	})
	if err != nil {
		return err
	}
	r.results(strconv.Itoa(handshakers), all, scores)
	return nil
}

const talkers = 64

// messages measures how many messages a second go there and back.
func messages(g *ground, s settings, r *report) error {
	r.line("")
	r.line("## Messages")
	r.line("")
	r.line("%d sessions; in each a message goes to the node and back, then the next; %d rounds in turns of %d s, medians.", talkers, s.rounds, s.seconds)
	r.head(heads("bytes", "messages")...)
	all := g.gateways()
	for _, size := range []int{128, 16 << 10} {
		scores, err := contest(s.rounds, all, func(w gateway) (score, error) {
			sessions, end, err := openAll(w, talkers)
			defer end()
			if err != nil {
				return score{}, err
			}
			return scored(w, func() (int, time.Duration, error) {
				message := make([]byte, size)
				return repeat(talkers, s.seconds, func(i int) error { return bounce(sessions[i], message) })
			})
		})
		if err != nil {
			return err
		}
		r.results(strconv.Itoa(size), all, scores)
	}
	return nil
}

// memory measures what an idle session costs.
func memory(g *ground, s settings, r *report) error {
	r.line("")
	r.line("## Memory of idle sessions")
	r.line("")
	r.line("Resident memory (RssAnon) of a fresh gateway that has so many sessions more than none, for each: right after the handshakes; and settled, a garbage collection later and when it does not change any more. nginx does not collect.")
	columns := []string{"gateway"}
	for _, n := range s.sessions {
		columns = append(columns, fmt.Sprintf("%d, after", n), fmt.Sprintf("%d, settled", n))
	}
	r.head(columns...)
	for _, w := range g.gateways() {
		cells := []string{w.name}
		for _, n := range s.sessions {
			after, settled, err := idle(g.node.Addr(), w.name, n)
			if err != nil {
				return err
			}
			cells = append(cells, kB(after), kB(settled))
		}
		r.row(cells...)
	}
	return nil
}

func kB(bytes float64) string { return fmt.Sprintf("%.1f kB", bytes/1024) }

// idle measures a gateway of that name, started anew.
func idle(node, name string, sessions int) (after, settled float64, err error) {
	g, err := newGroundTo(node)
	if err != nil {
		return 0, 0, err
	}
	defer g.stop()
	if err := g.startOpenResty(); err != nil {
		return 0, 0, err
	}
	if err := g.put("n1", node); err != nil {
		return 0, 0, err
	}
	for _, w := range g.gateways() {
		if w.name != name {
			continue
		}
		_, end, err := openAll(w, 50) // what only the first sessions cost
		end()
		if err != nil {
			return 0, 0, err
		}
		none, err := g.settle(w)
		if err != nil {
			return 0, 0, err
		}
		_, end, err = openAll(w, sessions)
		defer end()
		if err != nil {
			return 0, 0, err
		}
		now, err := stack.Resident(w.pids()...)
		if err != nil {
			return 0, 0, err
		}
		then, err := g.settle(w)
		return float64(now-none) / float64(sessions), float64(then-none) / float64(sessions), err
	}
	return 0, 0, errors.New("no gateway " + name)
}

// settle collects Traefik's garbage and waits until a gateway's memory has not
// changed by a hundredth for five seconds.
func (g *ground) settle(w gateway) (int, error) {
	if w.addr == g.traefik.Addr() {
		if _, err := g.traefik.LiveHeap(); err != nil {
			return 0, err
		}
	}
	last, since := 0, time.Now()
	for range 120 {
		now, err := stack.Resident(w.pids()...)
		if err != nil {
			return 0, err
		}
		if diff := now - last; diff > last/100 || -diff > last/100 {
			last, since = now, time.Now()
		}
		if time.Since(since) > 5*time.Second {
			return now, nil
		}
		time.Sleep(500 * time.Millisecond)
	}
	return last, nil
}

// repeat runs one from so many goroutines for so many seconds and returns how
// often it ran.
func repeat(goroutines, seconds int, one func(i int) error) (int, time.Duration, error) {
	var count atomic.Int64
	errs := make(chan error, goroutines)
	var all sync.WaitGroup
	start := time.Now()
	over := start.Add(time.Duration(seconds) * time.Second)
	for i := range goroutines {
		all.Go(func() {
			for time.Now().Before(over) {
				if err := one(i); err != nil {
					errs <- err
					return
				}
				count.Add(1)
			}
		})
	}
	all.Wait()
	took := time.Since(start)
	select {
	case err := <-errs:
		return 0, took, err
	default:
		return int(count.Load()), took, nil
	}
}

// openAll opens so many sessions; end closes them.
func openAll(w gateway, count int) (sessions []*net.TCPConn, end func(), err error) {
	sessions = make([]*net.TCPConn, count)
	end = func() {
		for _, c := range sessions {
			if c != nil {
				_ = c.SetLinger(0)
				c.Close()
			}
		}
	}
	var next atomic.Int64
	errs := make(chan error, handshakers)
	var all sync.WaitGroup
	for range handshakers {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(count); i = next.Add(1) - 1 {
				c, err := begin(w)
				if err != nil {
					errs <- err
					return
				}
				sessions[i] = c
			}
		})
	}
	all.Wait()
	select {
	case err = <-errs:
	default:
	}
	return sessions, end, err
}

// begin opens a session.
func begin(w gateway) (*net.TCPConn, error) {
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		return nil, err
	}
	c := conn.(*net.TCPConn)
	_, err = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: game.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", w.target())
	if err == nil {
		var resp *http.Response
		if resp, err = http.ReadResponse(bufio.NewReaderSize(c, 512), nil); err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
			err = fmt.Errorf("%s: %s", w.name, resp.Status)
		}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// bounce sends a message and waits for it to come back.
func bounce(c net.Conn, message []byte) error {
	if _, err := c.Write(message); err != nil {
		return err
	}
	_, err := io.ReadFull(c, message)
	return err
}
