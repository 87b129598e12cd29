package e2e

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// clusterWorld is a world whose Redis is a Cluster.
type clusterWorld struct {
	*world
	cluster *stack.Cluster
}

// onCluster starts three masters with a replica each, where the plugin is a user
// who may do no more than needed.
func onCluster(t *testing.T) *clusterWorld {
	t.Helper()
	c, err := stack.StartCluster(3)
	must(t, err)
	t.Cleanup(c.Stop)
	for _, r := range append(append([]*stack.Redis{}, c.Masters...), c.Replicas...) {
		addUser(t, r, gatewayRule, clusterRule)
	}
	// Two are enough to find the others.
	w := onto(t, c.Masters[0], user(stack.Options{
		"endpoints": []string{c.Masters[0].Addr(), c.Masters[1].Addr()}, "cluster": true,
	}))
	return &clusterWorld{w, c}
}

// put makes a node the route of a name.
func (w *clusterWorld) put(name string, n *stack.Node) {
	w.t.Helper()
	_, err := w.cluster.Do("HSET", key(name), "1", n.Addr())
	must(w.t, err)
}

// warm puts so many routes to node a and asks for each.
func (w *clusterWorld) warm(names ...string) {
	w.t.Helper()
	for _, name := range names {
		w.put(name, w.a)
		w.becomes(name, "a")
	}
}

// everywhere returns names whose keys are in so many slots all over the Cluster.
func (w *clusterWorld) everywhere(slots int) []string {
	w.t.Helper()
	const all = 16384
	seen := map[int]bool{}
	var names []string
	for len(names) < slots {
		name := nobody()
		slot, err := w.cluster.Slot(key(name))
		must(w.t, err)
		if part := slot * slots / all; !seen[part] {
			seen[part] = true
			names = append(names, name)
		}
	}
	return names
}

// moves checks that a change of each of these routes is pushed.
func (w *clusterWorld) moves(names ...string) {
	w.t.Helper()
	for _, name := range names {
		w.put(name, w.b)
		w.becomes(name, "b")
		w.put(name, w.a)
		w.becomes(name, "a")
	}
}

// Keys in all slots are found, with hash tags and without, and each master
// pushes its changes.
func TestClusterFindsAllKeys(t *testing.T) {
	w := onCluster(t)
	names := w.everywhere(60)
	for i := range 3 {
		tag := fmt.Sprintf("{tag%d}", i)
		names = append(names, tag+"x", tag+"y", "{}"+tag, "a{"+tag, "b"+tag+"{c}")
	}
	for _, name := range names {
		w.want(name, unknownNode)
	}
	w.warm(names...)
	w.moves(names...)
	if strings.Contains(w.traefik.Log(), "dynamicforward redis") {
		t.Errorf("the log says:\n%s", w.traefik.Tail(10))
	}
	// In the steady state a request costs the Cluster nothing.
	lookups := w.lookups()
	for range 10 {
		for _, name := range names {
			w.want(name, "a")
		}
	}
	if n := w.lookups() - lookups; n > len(names) {
		t.Errorf("%d look-ups for routes that are known", n)
	}
}

// lookups returns how many the Cluster has answered.
func (w *clusterWorld) lookups() int {
	w.t.Helper()
	count := 0
	for _, r := range w.cluster.Masters {
		stats, err := r.CommandStats()
		must(w.t, err)
		count += stats["hget"]
	}
	return count
}

// A slot moves under load, to a master that was there and to a new one: no
// request fails at any moment, and the new owner pushes.
func TestClusterMovesASlot(t *testing.T) {
	w := onCluster(t)
	names := w.everywhere(30)
	w.warm(names...)
	newcomer, err := w.cluster.Join()
	must(t, err)
	addUser(t, newcomer, gatewayRule, clusterRule)

	// Some names in one slot: known, only in Redis, and not there yet.
	slot, err := w.cluster.Slot(key("{moving}"))
	must(t, err)
	owner, err := w.cluster.Owner(w.cluster.Masters[0], slot)
	must(t, err)
	known := []string{"{moving}1", "{moving}2", "{moving}3"}
	w.warm(known...)
	to := w.cluster.Masters[0]
	if to == owner {
		to = w.cluster.Masters[1]
	}
	var serial atomic.Int64
	for _, to := range []*stack.Redis{to, newcomer} {
		var unknown []string
		for range 3 {
			name := fmt.Sprintf("{moving}new%d", serial.Add(1))
			unknown = append(unknown, name)
			w.want(name, unknownNode)
		}
		w.underLoad(4, w.asking(append(known, names...), "a"), func() {
			migration, err := w.cluster.BeginMigration(slot, to)
			must(t, err)
			w.warm(unknown[0]) // is created where the slot is going
			must(t, migration.MoveKeys())
			fresh := fmt.Sprintf("{moving}fresh%d", serial.Add(1))
			w.warm(fresh)
			w.want(unknown[0], "a")
			for range 20 {
				for _, name := range known {
					w.want(name, "a")
				}
			}
			must(t, migration.End())
			w.warm(unknown[1:]...)
			w.want(fresh, "a")
		})
		w.moves(append(known, unknown...)...)
	}
	w.moves(names...)
	w.moves(known...)
}

// A master dies under load and its replica takes over: known routes never fail,
// all are found again, and the new master pushes.
func TestClusterFailover(t *testing.T) {
	w := onCluster(t)
	names := w.everywhere(30)
	w.warm(names...)
	dead := w.cluster.Masters[0] // one of those that the configuration names
	waitForReplica(t, dead)
	var fresh string // what the dead one would hold
	for fresh == "" {
		name := nobody()
		slot, err := w.cluster.Slot(key(name))
		must(t, err)
		if owner, err := w.cluster.Owner(dead, slot); err == nil && owner == dead {
			fresh = name
		}
	}
	requests := w.underLoad(4, w.asking(names, "a"), func() {
		dead.Kill()
		w.cluster.Masters = append(w.cluster.Masters[1:], dead)
		eventually(t, "the replica is the master", func() bool {
			role, err := w.cluster.Replicas[0].Do("ROLE")
			return err == nil && fmt.Sprintf("%s", role.([]any)[0]) == "master"
		})
		must(t, w.cluster.WaitHealthy())
		w.put(fresh, w.b)
		since := time.Now()
		eventually(t, "a route on the new master is served", func() bool { return w.ask(fresh) == "b" })
		took := time.Since(since)
		t.Logf("the first route on the new master was served after %v", took)
		if took > 2*time.Second {
			t.Errorf("a route on the new master took %v; want 2s at the most", took)
		}
	})
	t.Logf("%d requests", requests)
	w.moves(names...)
	w.moves(fresh)

	// The dead one comes back, as a replica, and is of no interest.
	must(t, dead.Restart(nil))
	w.moves(names...)
}

// A failover that somebody asked for: nothing fails, known or not.
func TestClusterFailoverByHand(t *testing.T) {
	w := onCluster(t)
	names := w.everywhere(30)
	w.warm(names...)
	moving := w.everywhere(30)
	w.warm(moving...)
	w.underLoad(4, w.asking(names, "a"), func() {
		_, err := w.cluster.Replicas[1].Do("CLUSTER", "FAILOVER")
		must(t, err)
		eventually(t, "the replica is the master", func() bool {
			role, err := w.cluster.Replicas[1].Do("ROLE")
			return err == nil && fmt.Sprintf("%s", role.([]any)[0]) == "master"
		})
		w.moves(moving...)
	})
}

// What is wrong is logged with the option to look at.
func TestClusterTroubleIsExplained(t *testing.T) {
	plain := startRedis(t, stack.RedisOptions{})
	alone := startRedis(t, stack.RedisOptions{Args: []string{"--cluster-enabled", "yes", "--cluster-port", "0"}})
	addUser(t, alone, gatewayRule)
	for _, c := range []struct {
		link stack.Options
		log  []string
	}{
		{user(stack.Options{"endpoints": []string{alone.Addr()}, "cluster": true}), []string{"NOPERM", "'cluster|slots'", "look at the ACL rules of redis.username"}},
		{stack.Options{"endpoints": []string{plain.Addr()}, "cluster": true}, []string{"cluster support disabled", "remove redis.cluster"}},
		{stack.Options{"endpoints": []string{alone.Addr()}, "cluster": true}, []string{"knows of no slots"}},
		{stack.Options{"endpoints": []string{alone.Addr()}, "db": 1}, []string{"SELECT is not allowed", "set redis.cluster and remove redis.db"}},
		{stack.Options{"endpoints": []string{alone.Addr()}}, []string{"CLUSTERDOWN", "CLUSTER INFO"}},
	} {
		w := onto(t, plain, c.link)
		w.want(nobody(), redisDown)
		eventually(t, fmt.Sprint("the log says ", c.log), func() bool { return hasLine(w.traefik.Log(), c.log...) })
	}
}
