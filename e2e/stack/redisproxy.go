package stack

import (
	"bytes"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// RedisProxy is a Proxy to one or several Redis servers, which take turns, a
// connection each. It tells connections that have subscribed from those that
// look up, and can spoil the one kind without the other.
type RedisProxy struct {
	*Proxy
	targets []string

	lookupDelay atomic.Int64

	mu     sync.Mutex
	turn   int
	hangUp map[int]bool // connections to close at once, by their number
	links  map[*redisLink]bool
}

// redisLink is one connection through the proxy.
type redisLink struct {
	*link
	subscribed atomic.Bool
	hold       atomic.Bool // what the server says goes nowhere any more
}

// StartRedisProxy starts a proxy on a free port of 127.0.0.1.
func StartRedisProxy(targets ...string) (*RedisProxy, error) {
	if len(targets) == 0 {
		return nil, errors.New("a proxy needs a target")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	flowing := make(chan struct{})
	close(flowing)
	p := &RedisProxy{
		Proxy:   &Proxy{listener: l, target: targets[0], links: map[*link]bool{}, stalled: flowing},
		targets: targets,
		hangUp:  map[int]bool{},
		links:   map[*redisLink]bool{},
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			target, ok := p.next()
			if !ok {
				c.Close()
				continue
			}
			go p.serve(c, target)
		}
	}()
	return p, nil
}

// next returns the target of the next connection, or false if it is to be
// closed.
func (p *RedisProxy) next() (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.turn
	p.turn++
	return p.targets[n%len(p.targets)], !p.hangUp[n]
}

func (p *RedisProxy) serve(client net.Conn, target string) {
	server, err := net.Dial("tcp", target)
	if err != nil {
		client.Close()
		return
	}
	l := &redisLink{link: &link{client: client, server: server, gone: make(chan struct{})}}
	if !p.add(l) {
		l.close()
		return
	}
	var both sync.WaitGroup
	both.Go(func() { p.pass(l.link, server, listening{client, l}, func() time.Duration { return 0 }) })
	both.Go(func() { p.pass(l.link, client, holding{server, l}, func() time.Duration { return p.delayOf(l) }) })
	both.Wait()
	l.close()
	p.remove(l)
}

func (p *RedisProxy) add(l *redisLink) bool {
	p.Proxy.mu.Lock()
	defer p.Proxy.mu.Unlock()
	if p.refuse {
		return false
	}
	p.Proxy.links[l.link] = true
	p.mu.Lock()
	defer p.mu.Unlock()
	p.links[l] = true
	return true
}

func (p *RedisProxy) remove(l *redisLink) {
	p.Proxy.mu.Lock()
	defer p.Proxy.mu.Unlock()
	delete(p.Proxy.links, l.link)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
}

// Count returns how many connections were made to the proxy so far, whether it reached the
// server or not.
func (p *RedisProxy) Count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.turn
}

func (p *RedisProxy) delayOf(l *redisLink) time.Duration {
	if l.subscribed.Load() {
		return p.Delay()
	}
	return p.Delay() + time.Duration(p.lookupDelay.Load())
}

// SetLookupDelay holds back by d, from now on, what the servers say on
// connections that have not subscribed.
func (p *RedisProxy) SetLookupDelay(d time.Duration) { p.lookupDelay.Store(int64(d)) }

// HoldSubscribed keeps back for good what the servers say on the connections
// that have subscribed by now, and returns how many these are.
func (p *RedisProxy) HoldSubscribed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	held := 0
	for l := range p.links {
		if l.subscribed.Load() {
			l.hold.Store(true)
			held++
		}
	}
	return held
}

// HangUp makes the proxy close a connection as soon as it is made: 0 is the
// next one, 1 the one after it.
func (p *RedisProxy) HangUp(which int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hangUp[p.turn+which] = true
}

// listening is a connection whose reader looks for a SUBSCRIBE. It comes in a
// write of its own, as a client waits for its answer before saying more.
type listening struct {
	net.Conn
	link *redisLink
}

func (c listening) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if bytes.Contains(bytes.ToUpper(b[:n]), []byte("\r\nSUBSCRIBE\r\n")) {
		c.link.subscribed.Store(true)
	}
	return n, err
}

// holding is a connection whose reader gets nothing while the link is held.
type holding struct {
	net.Conn
	link *redisLink
}

func (c holding) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.link.hold.Load() {
			return n, err
		}
	}
}
