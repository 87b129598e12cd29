package main

import (
	"bufio"
	"bytes"
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
	g, err := newGroundTo(node.Addr(), plain)
	if err != nil {
		return err
	}
	defer g.stop()
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
	scores, err := contest(s.rounds, all, func(w gateway) (score, error) { return handshake(w, s.seconds) })
	if err != nil {
		return err
	}
	r.results("handshake", strconv.Itoa(handshakers), all, scores)
	return nil
}

// handshake has clients begin sessions for so many seconds.
func handshake(w gateway, seconds int) (score, error) {
	return scored(w, func() (int, time.Duration, error) {
		return repeat(handshakers, seconds, func(int) error {
			c, err := begin(w)
			if err == nil {
				_ = c.SetLinger(0)
				c.Close()
			}
			return err
		})
	})
}

const talkers = 64

// messages measures how many messages a second go there and back.
func messages(g *ground, s settings, r *report) error {
	r.line("")
	r.line("## Messages")
	r.line("")
	r.line("%d sessions; in each a message goes to the node and back, then the next (of 1 MiB as many a second as MiB a second each way); %d rounds in turns of %d s, medians.", talkers, s.rounds, s.seconds)
	r.head(heads("bytes", "messages")...)
	all := g.gateways()
	for _, size := range []int{small, 16 << 10, bulk} {
		scores, err := contest(s.rounds, all, func(w gateway) (score, error) { return chat(w, size, s.seconds) })
		if err != nil {
			return err
		}
		r.results(fmt.Sprintf("message.%d", size), strconv.Itoa(size), all, scores)
	}
	return nil
}

// chat has messages of so many bytes go there and back for so many seconds.
func chat(w gateway, size, seconds int) (score, error) {
	sessions, end, err := openAll(w, talkers)
	defer end()
	if err != nil {
		return score{}, err
	}
	return scored(w, func() (int, time.Duration, error) {
		message := make([]byte, size)
		return repeat(talkers, seconds, func(i int) error { return bounce(sessions[i], message) })
	})
}

// memory measures what an idle session costs.
func memory(g *ground, s settings, r *report) error {
	r.line("")
	r.line("## Memory of idle sessions")
	r.line("")
	r.line("Resident memory (RssAnon) of a fresh gateway that has so many sessions more than none, for each: right after the handshakes; and settled, when it has not changed by a hundredth for 25 s (nginx, which does not collect: 5 s). Nobody asks Traefik to collect its garbage. The sessions have carried nothing: what one keeps that has carried tens of kB, such as stacks that have grown, is not measured here.")
	columns := []string{"gateway"}
	for _, n := range s.sessions {
		columns = append(columns, fmt.Sprintf("%d, after", n), fmt.Sprintf("%d, settled", n))
	}
	r.head(columns...)
	all := g.gateways()
	groups := make([]group, len(s.sessions))
	for _, w := range all {
		cells := []string{w.name}
		for i, n := range s.sessions {
			m, err := idle(g.node.Addr(), plain, w.name, n)
			if err != nil {
				return err
			}
			cells = append(cells, kB(m.after), kB(m.settled))
			groups[i].label = fmt.Sprintf("%d sessions", n)
			groups[i].values = append(groups[i].values, m.settled/1024)
			m.figures(r, w)
		}
		r.row(cells...)
	}
	return r.bars("sessions.svg", "Memory of an idle session, settled", "kB resident", of(all, gateway.String), groups)
}

func kB(bytes float64) string { return fmt.Sprintf("%.1f kB", bytes/1024) }

// residence is what a gateway had resident, in bytes: without a session, and for
// each session after their handshakes and settled.
type residence struct{ none, after, settled float64 }

// figures adds the figures of a gateway's sessions; those of the most sessions stay.
func (m residence) figures(r *report, w gateway) {
	key := w.key
	if key == "openresty" {
		key = "nginx"
	}
	r.figure("session."+key+".after", m.after/1024, "kB")
	r.figure("session."+key+".settled", m.settled/1024, "kB")
	if key == "plugin" {
		r.figure("traefik.resident", m.none/(1<<20), "MB")
	}
}

// idle measures a gateway of that name, started anew.
func idle(node string, v variant, name string, sessions int) (m residence, err error) {
	g, err := newGroundTo(node, v)
	if err != nil {
		return m, err
	}
	defer g.stop()
	for _, w := range g.gateways() {
		if w.name != name {
			continue
		}
		_, end, err := openAll(w, 50) // what only the first sessions cost
		end()
		if err != nil {
			return m, err
		}
		none, err := g.settle(w, true)
		if err != nil {
			return m, err
		}
		_, end, err = openAll(w, sessions)
		defer end()
		if err != nil {
			return m, err
		}
		now, err := stack.Resident(w.pids()...)
		if err != nil {
			return m, err
		}
		then, err := g.settle(w, false)
		return residence{float64(none), float64(now-none) / float64(sessions), float64(then-none) / float64(sessions)}, err
	}
	return m, errors.New("no gateway " + name)
}

// settle waits until a gateway's memory has not changed by a hundredth for a while,
// two minutes at most. collect has Traefik collect its garbage first.
func (g *ground) settle(w gateway, collect bool) (int, error) {
	quiet := 5 * time.Second
	if w.addr == g.traefik.Addr() {
		if collect {
			if _, err := g.traefik.LiveHeap(); err != nil {
				return 0, err
			}
		} else {
			quiet = 25 * time.Second
		}
	}
	last, since := 0, time.Now()
	for range 240 {
		now, err := stack.Resident(w.pids()...)
		if err != nil {
			return 0, err
		}
		if diff := now - last; diff > last/100 || -diff > last/100 {
			last, since = now, time.Now()
		}
		if time.Since(since) > quiet {
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

// Messages, in bytes: small is what a game says many times a second, bulk fills every
// buffer on its way.
const (
	small = 128
	bulk  = 1 << 20
)

// bounce sends a message and waits for it to come back. It writes and reads at the
// same time: the echo does not wait for the end of what it gets.
func bounce(c net.Conn, message []byte) error {
	written := make(chan error, 1)
	if len(message) < bulk {
		_, err := c.Write(message)
		written <- err
	} else {
		sent := bytes.Clone(message)
		go func() {
			_, err := c.Write(sent)
			written <- err
		}()
	}
	_, err := io.ReadFull(c, message)
	return errors.Join(err, <-written)
}
