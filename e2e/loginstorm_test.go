package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// Traefik is killed and started again with thousands of sessions open, and all
// of their clients come back. Everybody has a session again, no node is asked
// twice for one, and Redis is asked once for each route, however many want it:
// what docs/capacity.md counts on.
func TestALoginStormAsksRedisOnceForEachRoute(t *testing.T) {
	const routes = 50
	sessions := 3000
	if room := (descriptorLimit(t) - 1000) / 2; room < sessions {
		t.Logf("the limit of descriptors leaves room for %d sessions instead of %d", room, sessions)
		sessions = room
	}
	w := &world{t: t, redis: startRedis(t, stack.RedisOptions{})}
	n := started[*stack.RawNode](t)(stack.StartRawNode(stack.AfterRequest(echo)))
	var targets []string
	for range routes {
		name := nobody()
		w.do("HSET", key(name), "1", n.Addr())
		targets = append(targets, "/ws"+query(name))
	}
	// A machine that is busy with the players may be late with Redis' answers.
	conf := stack.Game(stack.Options{"redis": stack.Options{"endpoints": []string{w.redis.Addr()}, "readTimeout": "1m"}}).YAML()
	first := started[*stack.Traefik](t)(stack.StartTraefik(stack.TraefikOptions{Dynamic: conf}))

	players := make([]*player, sessions)
	for i := range players {
		players[i] = &player{addr: first.Addr(), target: targets[i%routes]}
	}
	defer func() {
		for _, p := range players {
			p.leave()
		}
	}()
	var next atomic.Int64
	w.repeat(16, sessions, func() error { return players[next.Add(1)-1].enter() })
	if t.Failed() {
		return
	}
	lookups, handshakes := w.hgets(), n.Count()
	if lookups != routes || handshakes != sessions {
		t.Errorf("%d look-ups and %d handshakes for %d players on %d routes", lookups, handshakes, sessions, routes)
	}

	begin := time.Now()
	var returning sync.WaitGroup
	for _, p := range players {
		returning.Go(func() {
			if err := p.comeBack(begin.Add(2 * time.Minute)); err != nil {
				t.Error(err)
			}
		})
	}
	first.Kill()
	second := start(t, stack.TraefikOptions{Dynamic: conf, Addr: first.Addr()})
	returning.Wait()
	took := time.Since(begin)

	cpu, err := stack.CPU(second.Pid())
	must(t, err)
	lookups, handshakes = w.hgets()-lookups, n.Count()-handshakes
	t.Logf("%d players are back after %s, with %d look-ups and %d handshakes; Traefik has used %s of CPU, its start included", sessions, took, lookups, handshakes, cpu)
	// A route is read again when it was not for a minute.
	if again := int(took / time.Minute); lookups < routes || lookups > routes*(1+again) {
		t.Errorf("%d look-ups for %d routes in %s", lookups, routes, took)
	}
	if handshakes != sessions {
		t.Errorf("%d handshakes for %d players", handshakes, sessions)
	}
	for i, p := range players {
		if err := ping(p.conn); err != nil {
			t.Fatalf("player %d: %v", i, err)
		}
	}
	eventually(t, "the node has one session for each player", func() bool { return n.Open() == sessions })
}

// player is a client with a session, who comes back when it is lost.
type player struct {
	addr, target string
	conn         net.Conn
}

func (p *player) enter() (err error) {
	p.conn, err = begin(p.addr, p.target)
	if err != nil {
		p.leave()
	}
	return err
}

func (p *player) leave() {
	if p.conn != nil {
		p.conn.Close()
		p.conn = nil
	}
}

// comeBack waits for the loss of the session and tries again and again, at
// random within half a second.
func (p *player) comeBack(deadline time.Time) error {
	_ = p.conn.SetDeadline(deadline)
	if _, err := io.Copy(io.Discard, onlyReader{p.conn}); err != nil && time.Now().After(deadline) {
		return fmt.Errorf("%s: the session was not lost", p.target)
	}
	p.leave()
	for {
		time.Sleep(rand.N(500 * time.Millisecond))
		err := p.enter()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not back: %w", p.target, err)
		}
	}
}
