package stack

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
)

// Cluster is a Redis Cluster: masters, each with a replica.
type Cluster struct {
	Masters  []*Redis // as they were at the start
	Replicas []*Redis // Replicas[i] follows Masters[i]
	ids      map[*Redis]string
}

// slotCount is the number of slots of every Redis Cluster.
const slotCount = 16384

// StartCluster starts so many masters and as many replicas, and waits until all
// of them know all of them. A node is taken for dead after a second.
func StartCluster(masters int, args ...string) (*Cluster, error) {
	c := &Cluster{ids: map[*Redis]string{}}
	if err := c.start(masters, args); err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) start(masters int, args []string) error {
	for range masters {
		for _, nodes := range []*[]*Redis{&c.Masters, &c.Replicas} {
			r, err := c.startNode(args)
			if err != nil {
				return err
			}
			*nodes = append(*nodes, r)
		}
	}
	for i, r := range c.Masters {
		from, to := i*slotCount/masters, (i+1)*slotCount/masters-1
		if _, err := r.Do("CLUSTER", "ADDSLOTSRANGE", from, to); err != nil {
			return err
		}
	}
	for i, r := range c.all() {
		if _, err := r.Do("CLUSTER", "SET-CONFIG-EPOCH", i+1); err != nil {
			return err
		}
		if err := c.meet(r); err != nil {
			return err
		}
	}
	met := time.Now()
	if err := c.wait("the nodes do not find each other", func(r *Redis) bool {
		if time.Since(met) > 5*time.Second { // a node that could not answer in time has been forgotten
			for _, r := range c.all() {
				_ = c.meet(r)
			}
			met = time.Now()
		}
		return c.info(r)["cluster_known_nodes"] == strconv.Itoa(2*masters) && c.healthy(r)
	}); err != nil {
		return err
	}
	for i, r := range c.Replicas {
		if _, err := r.Do("CLUSTER", "REPLICATE", c.ids[c.Masters[i]]); err != nil {
			return err
		}
	}
	return c.wait("the replicas do not follow their masters", func(r *Redis) bool {
		// Every node must know that the replicas are there, or none is promoted.
		nodes, err := redis.String(r.Do("CLUSTER", "NODES"))
		return err == nil && strings.Count(nodes, "slave") == masters && (!c.isReplica(r) || r.replicates())
	})
}

// startNode starts a node that does not know any other.
func (c *Cluster) startNode(args []string) (*Redis, error) {
	bus, err := FreePort()
	if err != nil {
		return nil, err
	}
	r, err := StartRedis(RedisOptions{Args: append([]string{
		"--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-port", strconv.Itoa(bus),
		"--cluster-node-timeout", "1000", "--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0",
	}, args...)})
	if err != nil {
		return nil, err
	}
	id, err := redis.String(r.Do("CLUSTER", "MYID"))
	if err != nil {
		r.Stop()
		return nil, err
	}
	c.ids[r] = id
	return r, nil
}

// meet makes the first master know a node.
func (c *Cluster) meet(r *Redis) error {
	if r == c.Masters[0] {
		return nil
	}
	nodes, err := redis.String(r.Do("CLUSTER", "NODES"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(nodes) { // id host:port@bus,... flags ...
		fields := strings.Fields(line)
		if !strings.Contains(fields[2], "myself") {
			continue
		}
		_, bus, _ := strings.Cut(fields[1], "@")
		bus, _, _ = strings.Cut(bus, ",")
		_, err = c.Masters[0].Do("CLUSTER", "MEET", "127.0.0.1", r.Port(), bus)
		return err
	}
	return fmt.Errorf("a node does not know itself: %q", nodes)
}

// Join adds a master without slots.
func (c *Cluster) Join(args ...string) (*Redis, error) {
	r, err := c.startNode(args)
	if err != nil {
		return nil, err
	}
	before := len(c.all())
	c.Masters = append(c.Masters, r)
	if err := c.meet(r); err != nil {
		return nil, err
	}
	return r, c.wait("the new node is not known to all", func(r *Redis) bool {
		return c.info(r)["cluster_known_nodes"] == strconv.Itoa(before+1) && c.healthy(r)
	})
}

func (c *Cluster) all() []*Redis { return append(append([]*Redis{}, c.Masters...), c.Replicas...) }

func (c *Cluster) isReplica(r *Redis) bool {
	for _, replica := range c.Replicas {
		if r == replica {
			return true
		}
	}
	return false
}

// wait waits until ok holds of all nodes that run.
func (c *Cluster) wait(complaint string, ok func(r *Redis) bool) error {
	for _, r := range c.all() {
		if r.process.alive() && !waitFor(patience, r.process.done, func() bool { return ok(r) }) {
			nodes, _ := redis.String(r.Do("CLUSTER", "NODES"))
			return fmt.Errorf("%s; %s says:\n%s", complaint, r.Addr(), nodes)
		}
	}
	return nil
}

// info returns what CLUSTER INFO says.
func (c *Cluster) info(r *Redis) map[string]string {
	text, _ := redis.String(r.Do("CLUSTER", "INFO"))
	values := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		values[name] = value
	}
	return values
}

func (c *Cluster) healthy(r *Redis) bool { return c.info(r)["cluster_state"] == "ok" }

// WaitHealthy waits until every node that runs says that all slots are served.
func (c *Cluster) WaitHealthy() error { return c.wait("the Cluster is down", c.healthy) }

// Slot returns the slot of a key.
func (c *Cluster) Slot(key string) (int, error) {
	return redis.Int(c.Replicas[0].Do("CLUSTER", "KEYSLOT", key))
}

// Owner returns the node that owns a slot, as r knows it.
func (c *Cluster) Owner(r *Redis, slot int) (*Redis, error) {
	ranges, err := redis.Values(r.Do("CLUSTER", "SLOTS"))
	if err != nil {
		return nil, err
	}
	for _, part := range ranges {
		values, err := redis.Values(part, nil)
		if err != nil {
			return nil, err
		}
		var from, to int
		if _, err := redis.Scan(values, &from, &to); err != nil {
			return nil, err
		}
		if slot < from || slot > to {
			continue
		}
		master, err := redis.Values(values[2], nil)
		if err != nil {
			return nil, err
		}
		port, err := redis.Int(master[1], nil)
		if err != nil {
			return nil, err
		}
		return c.at(net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
	return nil, fmt.Errorf("nobody owns slot %d", slot)
}

// at returns the node at an address.
func (c *Cluster) at(addr string) (*Redis, error) {
	for _, r := range c.all() {
		if r.Addr() == addr {
			return r, nil
		}
	}
	return nil, fmt.Errorf("no node of the Cluster is at %s", addr)
}

// Do sends a command whose first argument is a key to the node that it belongs
// to, following MOVED and ASK.
func (c *Cluster) Do(command string, key string, args ...any) (any, error) {
	var r *Redis
	for _, r = range c.Masters {
		if r.process.alive() {
			break
		}
	}
	asking := false
	begun := time.Now()
	for range 10 {
		reply, err := r.doAsking(asking, command, append([]any{key}, args...)...)
		// Where a failover is not known to all, a node may say that nobody serves a slot.
		for err != nil && strings.HasPrefix(err.Error(), "CLUSTERDOWN ") && time.Since(begun) < patience {
			time.Sleep(10 * time.Millisecond)
			reply, err = r.doAsking(asking, command, append([]any{key}, args...)...)
		}
		var said redis.Error
		if err == nil || !errors.As(err, &said) {
			return reply, err
		}
		words := strings.Fields(said.Error())
		if len(words) != 3 || words[0] != "MOVED" && words[0] != "ASK" {
			return reply, err
		}
		asking = words[0] == "ASK"
		if r, err = c.at(words[2]); err != nil {
			return nil, err
		}
	}
	return nil, errors.New("too many redirections")
}

// doAsking is Do after an ASKING, where that is wanted.
func (r *Redis) doAsking(asking bool, command string, args ...any) (any, error) {
	if !asking {
		return r.Do(command, args...)
	}
	conn, err := r.dial()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := conn.Do("ASKING"); err != nil {
		return nil, err
	}
	return conn.Do(command, args...)
}

// A Migration is a slot on its way from one node to another.
type Migration struct {
	c        *Cluster
	slot     int
	from, to *Redis
}

// BeginMigration lets a slot begin to move: keys that are not there any more are
// asked for at the other node.
func (c *Cluster) BeginMigration(slot int, to *Redis) (*Migration, error) {
	from, err := c.Owner(to, slot)
	if err != nil {
		return nil, err
	}
	m := &Migration{c: c, slot: slot, from: from, to: to}
	if _, err := to.Do("CLUSTER", "SETSLOT", slot, "IMPORTING", c.ids[from]); err != nil {
		return nil, err
	}
	_, err = from.Do("CLUSTER", "SETSLOT", slot, "MIGRATING", c.ids[to])
	return m, err
}

// MoveKeys moves the slot's keys.
func (m *Migration) MoveKeys() error {
	for {
		keys, err := redis.Strings(m.from.Do("CLUSTER", "GETKEYSINSLOT", m.slot, 100))
		if err != nil || len(keys) == 0 {
			return err
		}
		_, port, _ := net.SplitHostPort(m.to.Addr())
		args := []any{"127.0.0.1", port, "", 0, 5000, "KEYS"}
		for _, key := range keys {
			args = append(args, key)
		}
		if _, err := m.from.Do("MIGRATE", args...); err != nil {
			return err
		}
	}
}

// End makes the other node the slot's owner.
func (m *Migration) End() error {
	for _, r := range []*Redis{m.to, m.from} {
		if _, err := r.Do("CLUSTER", "SETSLOT", m.slot, "NODE", m.c.ids[m.to]); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends all nodes.
func (c *Cluster) Stop() {
	var all sync.WaitGroup
	for _, r := range c.all() {
		all.Go(r.Stop)
	}
	all.Wait()
}
