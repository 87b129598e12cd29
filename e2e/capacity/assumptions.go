package main

import (
	"errors"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// assumptions are what the bench does not measure: how the players behave, and
// what machines and limits they meet. Each is a flag, and a row on the page.
type assumptions struct {
	// The players.
	messages      float64       // a second for each player, both directions together
	requests      float64       // plain requests a second for each player
	session       time.Duration // how long a session lasts: in peace a player logs in that often
	clientTimeout time.Duration // how long a client waits for the 101
	scatter       time.Duration // what is sent at the same moment arrives within this long
	first         time.Duration // a patient client comes back within this long
	least, most   time.Duration // and then waits so long, doubled each time up to most

	// The nodes.
	perNode int     // players of one node, which is one route
	threads int     // routes (fields) of one Redis key
	changes float64 // entries of Redis that change, an hour

	// A Traefik and its machine.
	tls         bool // clients speak TLS to it
	cores       float64
	busy        float64 // share of the CPU that may be used in peace
	memory      float64 // GiB
	memoryShare float64 // share of the memory that may be used
	gogc        float64 // percent
	descriptors int     // limit of open files
	ports       int     // local ports for one source address and one node's address
	addresses   int     // source addresses towards the nodes
	conntrack   int     // entries; 0: the kernel does not track connections
	balancer    int     // addresses of the load balancer's own; 0: Traefik sees the clients' addresses
	backlog     int     // connections that wait to be accepted (net.core.somaxconn)
	accepts     float64 // connections that Traefik accepts a second
	kernel      float64 // kB of the kernel for a session's two sockets
	pending     float64 // kB of a handshake that waits for the CPU
	down        time.Duration
	lookupCPU   time.Duration

	// All of them.
	spread     float64 // the fullest Traefik to the mean
	spare      int     // Traefiks that may be away
	perTraefik int     // players that one Traefik is to have at the most; 0: as many as it can

	// Redis.
	redisRate    float64 // commands a second
	maxEntries   int     // cache.maxEntries
	trackingKeys int     // tracking-table-max-keys
	trackedKey   float64 // bytes
	trackedItem  float64 // bytes

	seed uint64
}

// register makes a flag of every assumption.
func (a *assumptions) register(f *flag.FlagSet) {
	f.Float64Var(&a.messages, "messages", 10, "messages of 128 B a second for each player, both directions together")
	f.Float64Var(&a.requests, "requests", 0.01, "plain requests a second for each player")
	f.DurationVar(&a.session, "session", 2*time.Hour, "how long a session lasts")
	f.DurationVar(&a.clientTimeout, "client-timeout", 10*time.Second, "how long a client waits for its 101 before it gives the attempt up")
	f.DurationVar(&a.scatter, "scatter", 200*time.Millisecond, "connections that clients begin at the same moment arrive at random within this long")
	f.DurationVar(&a.first, "first", 30*time.Second, "a patient client's first attempt comes at random within this long after the loss")
	f.DurationVar(&a.least, "least", time.Second, "a client with jitter waits at random up to this long after its first failure, twice as long after each further one")
	f.DurationVar(&a.most, "most", 30*time.Second, "and never longer than this")

	f.IntVar(&a.perNode, "per-node", 2000, "players of one node; each node is one route")
	f.IntVar(&a.threads, "threads", 4, "routes in one Redis hash")
	f.Float64Var(&a.changes, "changes", 60, "entries of Redis that change in an hour")

	f.BoolVar(&a.tls, "tls", false, "clients speak TLS to Traefik, and resume nothing; false: a load balancer ends it")
	f.Float64Var(&a.cores, "cores", 4, "cores of one Traefik's machine, each as fast as those of the bench")
	f.Float64Var(&a.busy, "busy", 0.5, "share of the CPU that may be used in peace; the rest is for storms")
	f.Float64Var(&a.memory, "memory", 8, "GiB of one Traefik's machine")
	f.Float64Var(&a.memoryShare, "memory-share", 0.8, "share of the memory that may be used")
	f.Float64Var(&a.gogc, "gogc", 100, "GOGC: percent by which the heap may grow before the next collection")
	f.IntVar(&a.descriptors, "descriptors", 524288, "open files that Traefik may have (systemd's default hard limit, which Go raises itself to)")
	f.IntVar(&a.ports, "ports", 60999-32768+1, "local ports for one source address and one node's address (net.ipv4.ip_local_port_range)")
	f.IntVar(&a.addresses, "addresses", 1, "source addresses of a Traefik towards the nodes")
	f.IntVar(&a.conntrack, "conntrack", 262144, "nf_conntrack_max, where a firewall or NAT has the kernel track connections; 0: it does not")
	f.IntVar(&a.balancer, "balancer-addresses", 0, "addresses of its own from which the load balancer connects, 64,512 connections each; 0: it keeps the clients' addresses")
	f.IntVar(&a.backlog, "backlog", 4096, "connections that wait to be accepted (net.core.somaxconn)")
	f.Float64Var(&a.accepts, "accepts", 20000, "connections that Traefik accepts in a second, handshakes apart")
	f.Float64Var(&a.kernel, "kernel", 8, "kB that the kernel has for the two sockets of an idle session")
	f.Float64Var(&a.pending, "pending", 32, "kB of a connection that was accepted and waits for the CPU")
	f.DurationVar(&a.down, "down", 3*time.Second, "how long a Traefik that is restarted refuses connections")
	f.DurationVar(&a.lookupCPU, "lookup-cpu", 300*time.Microsecond, "CPU of Traefik for one look-up in Redis, with all that a new route brings with it")

	f.Float64Var(&a.spread, "spread", 1.2, "players of the fullest Traefik to the mean: how evenly the load balancer spreads")
	f.IntVar(&a.spare, "spare", 1, "Traefiks that may be away while the others carry everything")
	f.IntVar(&a.perTraefik, "per-traefik", 0, "players that one Traefik is to have at the most; 0: as many as it can carry")

	f.Float64Var(&a.redisRate, "redis", 100000, "commands a second of one Redis")
	f.IntVar(&a.maxEntries, "max-entries", 100000, "cache.maxEntries")
	f.IntVar(&a.trackingKeys, "tracking-keys", 1000000, "tracking-table-max-keys of Redis")
	f.Float64Var(&a.trackedKey, "tracked-key", 100, "bytes of Redis for a key that it tracks")
	f.Float64Var(&a.trackedItem, "tracked-item", 50, "bytes of Redis for each Traefik that has read such a key")

	f.Uint64Var(&a.seed, "seed", 1, "of the random numbers of the storm")
}

// check refuses what the model has no answer for.
func (a *assumptions) check() error {
	for name, value := range map[string]float64{
		"-messages": a.messages, "-requests": a.requests, "-changes": a.changes, "-gogc": a.gogc,
		"-kernel": a.kernel, "-pending": a.pending, "-down": float64(a.down), "-lookup-cpu": float64(a.lookupCPU),
		"-conntrack": float64(a.conntrack), "-balancer-addresses": float64(a.balancer), "-spare": float64(a.spare),
		"-per-traefik": float64(a.perTraefik), "-tracked-key": a.trackedKey, "-tracked-item": a.trackedItem, "-first": float64(a.first), "-scatter": float64(a.scatter),
	} {
		if value < 0 {
			return fmt.Errorf("%s: must not be negative", name)
		}
	}
	for name, value := range map[string]float64{
		"-session": float64(a.session), "-client-timeout": float64(a.clientTimeout), "-least": float64(a.least),
		"-per-node": float64(a.perNode), "-threads": float64(a.threads), "-memory": a.memory, "-ports": float64(a.ports),
		"-addresses": float64(a.addresses), "-backlog": float64(a.backlog), "-accepts": a.accepts, "-redis": a.redisRate,
		"-max-entries": float64(a.maxEntries), "-tracking-keys": float64(a.trackingKeys),
	} {
		if value <= 0 {
			return fmt.Errorf("%s: must be more than 0", name)
		}
	}
	switch {
	case a.cores < 1 || a.cores != float64(int(a.cores)):
		return errors.New("-cores: must be a whole number, 1 or more")
	case a.busy <= 0 || a.busy > 1 || a.memoryShare <= 0 || a.memoryShare > 1:
		return errors.New("-busy, -memory-share: a share is more than 0 and 1 at the most")
	case a.spread < 1:
		return errors.New("-spread: the fullest cannot have less than the mean: use 1 or more")
	case a.most < a.least:
		return errors.New("-most: must not be less than -least")
	case a.descriptors <= ownDescriptors:
		return fmt.Errorf("-descriptors: must be more than the %d that Traefik has for itself", ownDescriptors)
	}
	return nil
}

// counts is a flag that holds several numbers.
type counts []int

// String implements flag.Value.
func (c *counts) String() string {
	var words []string
	for _, n := range *c {
		words = append(words, strconv.Itoa(n))
	}
	return strings.Join(words, ",")
}

// Set implements flag.Value.
func (c *counts) Set(text string) error {
	*c = nil
	for _, word := range strings.Split(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || n < 1 || n > 100_000_000 {
			return fmt.Errorf("%q is no number of players", word)
		}
		*c = append(*c, n)
	}
	return nil
}
