package stack

import (
	"io"
	"net"
	"sync"
	"time"
)

// Proxy is a TCP proxy that spoils a link: it can delay what the server says,
// stall both directions, or cut every connection.
type Proxy struct {
	listener net.Listener
	target   string

	mu      sync.Mutex
	delay   time.Duration
	links   map[*link]bool
	count   int
	refuse  bool
	stalled chan struct{} // closed while bytes may pass
}

// link is one connection through the proxy.
type link struct {
	client, server net.Conn
	gone           chan struct{} // closed by close
	once           sync.Once
}

func (l *link) close() {
	l.once.Do(func() { close(l.gone) })
	l.client.Close()
	l.server.Close()
}

// StartProxy starts a proxy on a free port of 127.0.0.1 to the given address.
func StartProxy(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	flowing := make(chan struct{})
	close(flowing)
	p := &Proxy{listener: l, target: target, links: map[*link]bool{}, stalled: flowing}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(c)
		}
	}()
	return p, nil
}

func (p *Proxy) serve(client net.Conn) {
	server, err := net.Dial("tcp", p.Target())
	if err != nil {
		client.Close()
		return
	}
	l := &link{client: client, server: server, gone: make(chan struct{})}
	p.mu.Lock()
	p.count++
	if p.refuse {
		p.mu.Unlock()
		l.close()
		return
	}
	p.links[l] = true
	p.mu.Unlock()

	var both sync.WaitGroup
	both.Go(func() { p.pass(l, server, client, func() time.Duration { return 0 }) })
	both.Go(func() { p.pass(l, client, server, p.Delay) })
	both.Wait()
	l.close()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// chunk is what was read at once, and when it may be written.
type chunk struct {
	due   time.Time
	bytes []byte
}

// pass copies from src to dst in order, each chunk after the delay that was
// set when it came. The end of the stream is passed on as such; an error ends
// the link.
func (p *Proxy) pass(l *link, dst, src net.Conn, delay func() time.Duration) {
	chunks := make(chan chunk, 1024)
	go func() {
		defer close(chunks)
		for {
			buf := make([]byte, 16<<10)
			n, err := src.Read(buf)
			if n > 0 {
				select {
				case chunks <- chunk{time.Now().Add(delay()), buf[:n]}:
				case <-l.gone:
					return
				}
			}
			if err != nil {
				if err != io.EOF {
					l.close()
				}
				return
			}
		}
	}()
	for c := range chunks {
		select {
		case <-time.After(time.Until(c.due)):
		case <-l.gone:
			return
		}
		select {
		case <-p.flowing():
		case <-l.gone:
			return
		}
		if _, err := dst.Write(c.bytes); err != nil {
			l.close()
			return
		}
	}
	_ = dst.(*net.TCPConn).CloseWrite()
}

func (p *Proxy) flowing() chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stalled
}

// Addr returns the proxy's address, host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Target returns the address that it forwards to.
func (p *Proxy) Target() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.target
}

// Retarget sends connections made from now on to another address.
func (p *Proxy) Retarget(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// Delay returns how long the server's bytes are held back.
func (p *Proxy) Delay() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.delay
}

// SetDelay holds the server's bytes back by d from now on.
func (p *Proxy) SetDelay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Stall holds everything back until Flow; connections stay open.
func (p *Proxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.stalled:
		p.stalled = make(chan struct{})
	default:
	}
}

// Flow ends a Stall.
func (p *Proxy) Flow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.stalled:
	default:
		close(p.stalled)
	}
}

// Cut closes every connection; new ones are taken as before.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.close()
	}
}

// Refuse makes the proxy close new connections at once, or stop doing so.
func (p *Proxy) Refuse(refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = refuse
}

// Count returns how many connections have been made so far.
func (p *Proxy) Count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

// Open returns how many connections are open.
func (p *Proxy) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// Stop closes the proxy and every connection.
func (p *Proxy) Stop() {
	p.listener.Close()
	p.Refuse(true)
	p.Flow()
	p.Cut()
}
