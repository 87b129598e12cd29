package stack

import (
	"bufio"
	"io"
	"net"
	"testing"
	"time"
)

// echoProxy returns a connection through a proxy to a server that echoes.
func echoProxy(t *testing.T) (*Proxy, net.Conn, *bufio.Reader) {
	t.Helper()
	echo, err := StartRawNode(func(c net.Conn) { _, _ = io.Copy(c, c) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(echo.Stop)
	p, err := StartProxy(echo.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return p, c, bufio.NewReader(c)
}

func exchange(t *testing.T, c net.Conn, in *bufio.Reader, line string) {
	t.Helper()
	if _, err := io.WriteString(c, line); err != nil {
		t.Fatal(err)
	}
	if got, err := in.ReadString('\n'); err != nil || got != line {
		t.Fatalf("got %q, %v; want %q", got, err, line)
	}
}

func TestProxyDelaysTheServer(t *testing.T) {
	p, c, in := echoProxy(t)
	exchange(t, c, in, "at once\n")
	p.SetDelay(300 * time.Millisecond)
	begin := time.Now()
	exchange(t, c, in, "later\n")
	if took := time.Since(begin); took < 300*time.Millisecond {
		t.Errorf("the echo took %v; want the delay of 300ms at least", took)
	}
}

func TestProxyStallsAndFlows(t *testing.T) {
	p, c, in := echoProxy(t)
	exchange(t, c, in, "before\n")
	p.Stall()
	if _, err := io.WriteString(c, "stalled\n"); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if got, err := in.ReadString('\n'); err == nil {
		t.Fatalf("%q came through", got)
	}
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	p.Flow()
	if got, err := in.ReadString('\n'); err != nil || got != "stalled\n" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestProxyCutsAndGoesOn(t *testing.T) {
	p, c, in := echoProxy(t)
	exchange(t, c, in, "before\n")
	p.Stall() // a link that stalls is cut all the same
	_, _ = io.WriteString(c, "lost\n")
	p.Cut()
	if got, err := in.ReadString('\n'); err == nil {
		t.Fatalf("%q came over a link that was cut", got)
	}
	if !waitFor(patience, nil, func() bool { return p.Open() == 0 }) {
		t.Errorf("%d links are open", p.Open())
	}
	p.Flow()
	again, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	exchange(t, again, bufio.NewReader(again), "again\n")
	if p.Count() != 2 {
		t.Errorf("%d links were made; want 2", p.Count())
	}
}

// The end of one direction leaves the other open.
func TestProxyPassesHalfACloseOn(t *testing.T) {
	p, c, in := echoProxy(t)
	p.SetDelay(50 * time.Millisecond)
	if _, err := io.WriteString(c, "last words\n"); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(in); err != nil || string(got) != "last words\n" {
		t.Errorf("got %q, %v", got, err)
	}
}
