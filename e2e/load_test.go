package e2e

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// crowd sends requests for the threads of a node from many clients at once, and
// counts what goes wrong.
type crowd struct {
	t      *testing.T
	client *http.Client
	path   string
	name   string
	nodes  []*stack.Node // thread i is at nodes[i%len(nodes)]

	made, failed atomic.Int64
}

// gather makes a crowd and writes the addresses of all threads into Redis.
func gather(t *testing.T, threads int) *crowd {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	t.Cleanup(transport.CloseIdleConnections)
	c := &crowd{
		t:      t,
		client: &http.Client{Transport: transport, Timeout: 30 * time.Second},
		path:   usual(t),
		name:   nobody(),
		nodes:  []*stack.Node{startNode(t, stack.NodeOptions{Keep: 1}), startNode(t, stack.NodeOptions{Keep: 1})},
	}
	const batch = 1000
	for from := 0; from < threads; from += batch {
		args := []any{c.key()}
		for thread := from; thread < from+batch; thread++ {
			args = append(args, thread, c.node(thread).Addr())
		}
		do(t, redis, "HSET", args...)
	}
	return c
}

func (c *crowd) key() string { return "game-server_dev_node_" + c.name }

func (c *crowd) node(thread int) *stack.Node { return c.nodes[thread%len(c.nodes)] }

// ask requests one thread, and checks that its node has answered.
func (c *crowd) ask(thread int) {
	c.made.Add(1)
	err := func() error {
		resp, err := c.client.Get(fmt.Sprintf("%s%s?nodeName=%s&threadId=%d&platform=dev", traefik.URL(), c.path, c.name, thread))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		if want := c.node(thread).Name(); resp.StatusCode != 200 || resp.Header.Get("X-Node") != want {
			return fmt.Errorf("thread %d: %s from node %q: %s; want node %q", thread, resp.Status, resp.Header.Get("X-Node"), body, want)
		}
		return nil
	}()
	if err != nil && c.failed.Add(1) <= 5 {
		c.t.Error(err)
	}
}

// all lets the clients ask for the threads in order, until one is beyond last or
// the bound is over.
func (c *crowd) all(last int, bound time.Duration) {
	var next atomic.Int64
	var clientsDone sync.WaitGroup
	deadline := time.Now().Add(bound)
	for range clients {
		clientsDone.Go(func() {
			for time.Now().Before(deadline) {
				thread := int(next.Add(1) - 1)
				if thread > last {
					return
				}
				c.ask(thread)
			}
		})
	}
	clientsDone.Wait()
}

const clients = 100

// 100 requests at once, each with a look-up of its own, for ten seconds.
func TestLookupsAtOnce(t *testing.T) {
	const threads = 100_000 // more than there will be requests: none is asked for twice
	bound := 10 * time.Second
	if testing.Short() {
		bound = time.Second
	}
	c := gather(t, threads)
	c.all(threads-1, bound)
	t.Logf("%d requests, %d failed", c.made.Load(), c.failed.Load())
	if c.made.Load() < clients {
		t.Errorf("%d requests were made; want at least one for each of %d clients", c.made.Load(), clients)
	}
	if seen := int64(c.nodes[0].Count() + c.nodes[1].Count()); seen < c.made.Load()-c.failed.Load() {
		t.Errorf("the nodes saw %d requests of %d", seen, c.made.Load())
	}
}

// One HSET makes all fields of a hash unknown. However many of them are in use,
// requests go on: those for them and those for others.
func TestChangeOfAHashInUseDisturbsNobody(t *testing.T) {
	const threads = 10_000
	c := gather(t, threads)
	c.all(threads-1, time.Minute)
	for range 5 {
		do(t, redis, "HSET", c.key(), "another", "127.0.0.1:1")
		cold := newClient(t)
		for thread := range 20 {
			c.ask(thread)
			wantNode(t, cold.get(t, c.path+place(t, node.Addr())), node)
		}
	}
	if c.failed.Load() > 0 {
		t.Errorf("%d requests of %d failed", c.failed.Load(), c.made.Load())
	}
}
