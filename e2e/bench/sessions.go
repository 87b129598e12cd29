package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// measureSessions compares the gateways with WebSocket sessions and writes
// sessions.md.
func measureSessions(s settings, out string) error {
	return sessionsPage(s, out, plain, "Sessions, measured", "sessions.md", handshakes, memory)
}

// measureMessages compares them with the messages of sessions and writes messages.md.
func measureMessages(s settings, out string) error {
	return sessionsPage(s, out, plain, "Messages, measured", "messages.md", messages)
}

// measureSecureSessions compares them with sessions and messages of clients that speak TLS,
// fewer kinds of them, and writes tls-sessions.md.
func measureSecureSessions(s settings, out string) error {
	s.sessions = []int{slices.Max(s.sessions)}
	s.messages = []int{small, large}
	return sessionsPage(s, out, secure, "Sessions of clients that speak TLS, measured", "sessions.md", handshakes, messages, memory)
}

// sessionsPage writes a page of comparisons of the gateways, all of them configured like that.
func sessionsPage(s settings, out string, v variant, title, file string, measures ...func(*ground, settings, *report) error) error {
	node, err := stack.StartEchoNode()
	if err != nil {
		return err
	}
	defer node.Stop()
	g, err := newGroundTo(node.Addr(), v)
	if err != nil {
		return err
	}
	defer g.stop()
	if err := g.startOpenResty(); err != nil {
		return err
	}
	r := g.page(title, ownClients)
	r.prefix = v.prefix
	if v.secure {
		r.line("Clients speak TLS 1.3 to the gateway, which has an ECDSA certificate (P-256), and do not resume sessions of TLS; nodes speak none. What else there is to agree on (the exchange of keys, the cipher) is by each side's defaults.")
	}
	r.line("%s", rivals)
	for _, measure := range measures {
		if err := measure(g, s, r); err != nil {
			return err
		}
	}
	return r.write(out, file)
}

const handshakers = 16

// handshakes measures how many sessions a second can begin.
func handshakes(g *ground, s settings, r *report) error {
	r.section("Handshakes")
	r.line("%d clients that open a session, wait for the 101 and reset the connection, without a pause (the plugin resets the node's connection then, the others close it in order); %s.", handshakers, s.inShort())
	r.head(heads("clients", "handshakes")...)
	all := g.gateways()
	results, err := contest(s, g.renew, all, atOnce(handshake))
	if err != nil {
		return err
	}
	r.results("handshake", strconv.Itoa(handshakers), all, results[0])
	return nil
}

// handshake has clients begin sessions.
func handshake(w gateway) (tally, error) {
	return tallied(w, func() (int, time.Duration, error) {
		return repeat(handshakers, turnSeconds, func(int) error {
			c, err := begin(w)
			if err == nil {
				reset(c)
			}
			return err
		})
	})
}

const talkers = 64

// messages measures how many messages a second go there and back.
func messages(g *ground, s settings, r *report) error {
	r.section("Messages there and back")
	ofBulk := ""
	if slices.Contains(s.messages, bulk) {
		ofBulk = " (of 1 MiB as many a second as MiB a second each way)"
	}
	r.line("%d sessions that have carried %d kB each way before; in each a message goes to the node and back, then the next%s; %s. Each turn begins with one message that does not count.", talkers, runIn>>10, ofBulk, s.inShort())
	r.head(heads("bytes", "messages")...)
	all := g.gateways()
	results, err := contest(s, g.renew, all, of(s.messages, chat)...)
	if err != nil {
		return err
	}
	for i, size := range s.messages {
		r.results(fmt.Sprintf("message.%d", size), strconv.Itoa(size), all, results[i])
	}
	return nil
}

// runIn is how much a session has carried each way when its messages begin to count, in
// bytes: sessions stay for hours, and a gateway may find its pace by the first of it. The
// plugin looks after 64 kB how to go on, and, where what it finds fits, 256 kB to 2.4 MB
// later again.
const runIn = 128 << 10

// chat has messages of so many bytes go there and back. One more in each session begins a
// turn: between turns the sessions are silent.
func chat(size int) trial {
	return func(w gateway) (turn func() (tally, error), end func(), err error) {
		sessions, end, err := openAll(w, talkers)
		if err == nil {
			err = talk(sessions, size, runIn)
		}
		if err != nil {
			return nil, end, fmt.Errorf("%s: %w", w.name, err)
		}
		messages := make([][]byte, talkers)
		for i := range talkers {
			messages[i] = make([]byte, size)
		}
		return func() (tally, error) {
			if err := talk(sessions, size, size); err != nil {
				return tally{}, fmt.Errorf("%s: %w", w.name, err)
			}
			return tallied(w, func() (int, time.Duration, error) {
				return repeat(talkers, turnSeconds, func(i int) error { return bounce(sessions[i], messages[i]) })
			})
		}, end, nil
	}
}

// talk has each session carry so much each way in messages of that size, in bytes.
func talk(sessions []net.Conn, size, much int) error {
	var all errgroup.Group
	all.SetLimit(talkers)
	for _, c := range sessions {
		all.Go(func() error {
			message := make([]byte, size)
			for sent := 0; sent < much; sent += size {
				if err := bounce(c, message); err != nil {
					return fmt.Errorf("%s, after %d of %d bytes: %w", c.LocalAddr(), sent, much, err)
				}
			}
			return nil
		})
	}
	return all.Wait()
}

// Sessions that have talked have carried so much each way, in messages of that size, in
// bytes: more than the plugin carries until it has looked how to go on, which is what may
// leave something in memory, and messages that it has a larger buffer for until it sees that
// there are no more, up to 30 s later: 10 s in which there were some, and 20 s without.
const (
	spoken    = 384 << 10
	said      = middle
	forgotten = 32 * time.Second
)

// talkEvery is how often each session that talks carries a message, of as many bytes as
// those that have talked, each way: seldom enough for the machine to keep up with the most
// sessions, and often enough that the plugin keeps its larger buffer for each direction. They
// talk for longer than the two minutes after which Go collects garbage in any case; what
// counts is the end of that, when what their first messages have left is forgotten.
//
// They begin in parts, for what a session carries first, to have that buffer, takes the
// machine so long, for all of them, that the first would have given it back by then.
const (
	talkEvery = 5 * time.Second
	talkFor   = 150 * time.Second
	talkLast  = 60 * time.Second
	talkPart  = 500
)

// memory measures what a session costs, while it is idle and while it talks.
func memory(g *ground, s settings, r *report) error {
	r.section("Memory")
	r.line("Resident memory (RssAnon), measured once, of a fresh gateway that has so many sessions more than none, for each: right after the handshakes; and settled, when Traefik has collected its garbage, which it is asked to do and does every two minutes by itself, and it has not changed by a hundredth for 25 s (nginx, which does not collect: 5 s). Live is what of Traefik's heap is in use then, which is without the stacks of goroutines. Then each session carries %d kB each way in messages of %d bytes, and after %s of silence all settle again: having talked. At last, with the most sessions, each carries as much again and then a message each way every %s, for %s: the most that is resident in the last %s, with what garbage is not collected yet, and what is live then: talking.", spoken>>10, said, forgotten, talkEvery, talkFor, talkLast)
	columns := []string{"gateway"}
	for _, n := range s.sessions {
		columns = append(columns, fmt.Sprintf("%d, after", n), fmt.Sprintf("%d, settled", n), fmt.Sprintf("%d, live", n), fmt.Sprintf("%d, having talked", n))
	}
	last := len(s.sessions) - 1
	r.head(append(columns, fmt.Sprintf("%d, talking", s.sessions[last]), fmt.Sprintf("%d, talking, live", s.sessions[last]))...)
	all := g.gateways()
	groups := make([]group, len(s.sessions))
	for _, w := range all {
		cells := []string{w.name}
		for i, n := range s.sessions {
			m, err := idle(g.node.Addr(), g.variant, w.name, n, i == last)
			if err != nil {
				return err
			}
			cells = append(cells, kB(m.after), kB(m.settled), kB(m.live), kB(m.talked))
			groups[i].label = fmt.Sprintf("%d sessions", n)
			groups[i].values = append(groups[i].values, m.talked/1024)
			m.figures(r, w)
			if i == last {
				cells = append(cells, kB(m.talking), kB(m.talkingLive))
			}
		}
		r.row(cells...)
	}
	return r.bars("sessions.svg", "Memory of an idle session that has talked", "kB resident", of(all, gateway.String), groups)
}

// kB tells a size; 0: it was not measured.
func kB(bytes float64) string {
	if bytes == 0 {
		return "–"
	}
	return fmt.Sprintf("%.1f kB", bytes/1024)
}

// residence is what a gateway had resident, in bytes: without a session, and for
// each session after their handshakes, settled, settled after they have talked, and, if
// that was wanted, at the most while they talk; and how much of the heap is in use when it
// has settled, and while they talk, which only Traefik tells.
type residence struct{ none, after, settled, live, talked, talking, talkingLive float64 }

// figures adds the figures of a gateway's sessions; those of the most sessions stay.
func (m residence) figures(r *report, w gateway) {
	key := w.key
	if key == "openresty" {
		key = "nginx" // which of its locations a session has come by makes no difference in memory
	}
	r.figure("session."+key+".after", m.after/1024, "kB")
	r.figure("session."+key+".settled", m.settled/1024, "kB")
	r.figure("session."+key+".talked", m.talked/1024, "kB")
	if m.talking != 0 {
		r.figure("session."+key+".talking", m.talking/1024, "kB")
	}
	if m.live != 0 {
		r.figure("session."+key+".live", m.live/1024, "kB")
	}
	if key == "plugin" {
		r.figure("traefik.resident", m.none/(1<<20), "MB")
	}
}

// idle measures a gateway of that name, started anew: sessions that are idle, and, with
// talking, the most that they take while they talk.
func idle(node string, v variant, name string, sessions int, talking bool) (m residence, err error) {
	g, err := newGroundTo(node, v)
	if err != nil {
		return m, err
	}
	defer g.stop()
	if err := g.startOpenResty(); err != nil {
		return m, err
	}
	for _, w := range g.gateways() {
		if w.name != name {
			continue
		}
		_, end, err := openAll(w, 50) // what only the first sessions cost
		end()
		if err != nil {
			return m, err
		}
		none, noneLive, err := g.settle(w)
		if err != nil {
			return m, err
		}
		all, end, err := openAll(w, sessions)
		defer end()
		if err != nil {
			return m, err
		}
		after, err := stack.Resident(w.pids()...)
		if err != nil {
			return m, err
		}
		settled, live, err := g.settle(w)
		if err != nil {
			return m, err
		}
		if err := talk(all, said, spoken); err != nil {
			return m, g.lost(w, all, err)
		}
		time.Sleep(forgotten)
		talked, _, err := g.settle(w)
		if err != nil {
			return m, err
		}
		if err := talk(all, said, said); err != nil {
			return m, g.lost(w, all, fmt.Errorf("settled again: %w", err))
		}
		each := func(more int) float64 { return float64(more) / float64(sessions) }
		m = residence{none: float64(none), after: each(after - none), settled: each(settled - none), live: each(live - noneLive), talked: each(talked - none)}
		if talking {
			busy, live, err := g.whileTalking(w, all)
			if err != nil {
				return m, g.lost(w, all, err)
			}
			m.talking = each(busy - none)
			m.talkingLive = each(live - noneLive)
		}
		return m, nil
	}
	return m, errors.New("no gateway " + name)
}

// whileTalking is the most that a gateway has resident, in bytes, while its sessions talk,
// and what is in use of Traefik's heap then; 0: it is not Traefik.
func (g *ground) whileTalking(w gateway, sessions []net.Conn) (most, live int, err error) {
	for part := range slices.Chunk(sessions, talkPart) {
		if err := talk(part, said, spoken); err != nil {
			return 0, 0, fmt.Errorf("before they talk: %w", err)
		}
		stop := keepTalking(part, said, talkEvery)
		defer func() {
			if broken := stop(); broken != nil {
				err = errors.Join(err, fmt.Errorf("while they talk: %w", broken))
			}
		}()
	}
	if _, err := g.liveHeap(w); err != nil { // what they have begun with is collected
		return 0, 0, err
	}
	time.Sleep(talkFor - talkLast)
	for since := time.Now(); time.Since(since) < talkLast; time.Sleep(500 * time.Millisecond) {
		resident, err := stack.Resident(w.pids()...)
		if err != nil {
			return 0, 0, err
		}
		most = max(most, resident)
	}
	live, err = g.liveHeap(w)
	return most, live, err
}

// keepTalking has each session carry a message of that size each way so often, until
// stop is called, which returns what has gone wrong.
func keepTalking(sessions []net.Conn, size int, every time.Duration) (stop func() error) {
	over := make(chan struct{})
	var all errgroup.Group
	for i := range min(talkers, len(sessions)) {
		all.Go(func() error {
			message := make([]byte, size)
			turn := time.NewTicker(every * talkers / time.Duration(len(sessions)))
			defer turn.Stop()
			for next := i; ; next += talkers {
				if next >= len(sessions) {
					next = i
				}
				select {
				case <-over:
					return nil
				case <-turn.C:
				}
				if err := bounce(sessions[next], message); err != nil {
					return fmt.Errorf("%s: %w", sessions[next].LocalAddr(), err)
				}
			}
		})
	}
	return func() error {
		close(over)
		return all.Wait()
	}
}

// lost says how many sessions have ended, which should not, and, if they are Traefik's, what
// is known of it then: when a session ends in order, that may be by its node or by what the
// plugin has met, and all end so when Traefik itself does.
func (g *ground) lost(w gateway, sessions []net.Conn, err error) error {
	ended := 0
	for _, c := range sessions {
		_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			ended++
		}
	}
	err = fmt.Errorf("%s: %d of %d sessions have ended: %w", w.name, ended, len(sessions), err)
	if w.addr != g.traefik.Addr() {
		return err
	}
	if unwell := g.traefik.Healthy(); unwell != nil {
		return fmt.Errorf("%w; Traefik is not well: %w", err, unwell)
	}
	return fmt.Errorf("%w; Traefik is well, and has logged last\n%s", err, g.traefik.Tail(5))
}

// unsettled is after how long memory that changes is an error.
const unsettled = 5 * time.Minute

// settle waits until a gateway's resident memory has not changed by a hundredth for a
// while, and returns it, in bytes, with what is in use of Traefik's
// heap then; 0: it is not Traefik. Traefik is asked to collect its garbage, as Go does
// every two minutes by itself, and gives back in the background what it does not need then.
func (g *ground) settle(w gateway) (resident, live int, err error) {
	quiet := 5 * time.Second
	if w.addr == g.traefik.Addr() {
		quiet = 25 * time.Second
	}
	if _, err := g.liveHeap(w); err != nil {
		return 0, 0, err
	}
	begun := time.Now()
	for since := begun; time.Since(since) <= quiet; time.Sleep(500 * time.Millisecond) {
		now, err := stack.Resident(w.pids()...)
		if err != nil {
			return 0, 0, err
		}
		if diff := now - resident; diff > resident/100 || -diff > resident/100 {
			resident, since = now, time.Now()
		}
		if time.Since(begun) > unsettled {
			return 0, 0, fmt.Errorf("%s: its memory still changes after %s", w.name, unsettled)
		}
	}
	if resident, err = stack.Resident(w.pids()...); err != nil {
		return 0, 0, err
	}
	live, err = g.liveHeap(w)
	return resident, live, err
}

// liveHeap has Traefik collect its garbage, and is what is in use of its heap then, in
// bytes; 0: the gateway is not Traefik.
func (g *ground) liveHeap(w gateway) (int, error) {
	if w.addr != g.traefik.Addr() {
		return 0, nil
	}
	return g.traefik.LiveHeap()
}

// repeat runs one from so many goroutines for so many seconds and returns how
// often it ran.
func repeat(goroutines, seconds int, one func(i int) error) (int, time.Duration, error) {
	var count atomic.Int64
	var all errgroup.Group
	start := time.Now()
	over := start.Add(time.Duration(seconds) * time.Second)
	for i := range goroutines {
		all.Go(func() error {
			for time.Now().Before(over) {
				if err := one(i); err != nil {
					return err
				}
				count.Add(1)
			}
			return nil
		})
	}
	err := all.Wait()
	return int(count.Load()), time.Since(start), err
}

// openAll opens so many sessions; end closes them.
func openAll(w gateway, count int) (sessions []net.Conn, end func(), err error) {
	sessions = make([]net.Conn, count)
	end = func() {
		for _, c := range sessions {
			if c != nil {
				reset(c)
			}
		}
	}
	var all errgroup.Group
	all.SetLimit(handshakers)
	for i := range sessions {
		all.Go(func() (err error) {
			sessions[i], err = begin(w)
			return err
		})
	}
	return sessions, end, all.Wait()
}

// light makes connections that cost the clients, which share the processors with the
// gateway, no more than they have to.
var light = net.Dialer{KeepAlive: -1}

// lifetime is for how long a session is used at the most: one that a gateway forgets is an
// error then.
const lifetime = time.Hour

// begin opens a session.
func begin(w gateway) (net.Conn, error) {
	c, err := connect(w)
	if err != nil {
		return nil, err
	}
	if err := handshakeOn(c, w); err != nil {
		c.Close()
		return nil, fmt.Errorf("%s: %w", w.name, err)
	}
	return c, nil
}

// connect makes a client's connection.
func connect(w gateway) (net.Conn, error) {
	c, err := light.Dial("tcp", w.addr)
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(lifetime)); err != nil {
		return nil, err
	}
	if w.secure {
		c = tls.Client(c, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}})
	}
	return c, nil
}

// reset ends a session without a word.
func reset(c net.Conn) {
	if safe, ok := c.(*tls.Conn); ok {
		c = safe.NetConn()
	}
	_ = c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

func handshakeOn(c net.Conn, w gateway) error {
	_, err := io.WriteString(c, "GET "+w.target()+" HTTP/1.1\r\nHost: game.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
	if err != nil {
		return err
	}
	answer := make([]byte, 0, 1024)
	for !bytes.HasSuffix(answer, []byte("\r\n\r\n")) {
		n, err := c.Read(answer[len(answer):cap(answer)])
		answer = answer[:len(answer)+n]
		if err != nil {
			return fmt.Errorf("no answer: %q, %w", answer, err)
		}
		if len(answer) == cap(answer) {
			return fmt.Errorf("an answer without an end: %q", answer)
		}
	}
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 101 ")) {
		return fmt.Errorf("no agreement: %q", answer)
	}
	return nil
}

// Messages, in bytes: small and middle are what a game says many times a second, large what
// it may say of a whole scene, bulk fills every buffer on its way.
const (
	small  = 128
	middle = 2 << 10
	large  = 16 << 10
	bulk   = 1 << 20
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
