package dynamicforward

import (
	"fmt"
	"sync"
	"time"
)

// WebSocketConfig is for sessions: what upgraded connections become. A session
// without any of it costs the least.
type WebSocketConfig struct {
	// IdleTimeout closes a session that has been silent this long, in both
	// directions; what they carry is looked at three times within that time, so up
	// to as much again may be added. At least "1s". Default "0s": never.
	IdleTimeout string `json:"idleTimeout,omitempty"`
	// MaxPerNode is how many sessions a node may hold through this Traefik, over
	// all routers; those that have been begun count. Default 0: no limit.
	MaxPerNode int `json:"maxPerNode,omitempty"`
	// CloseOnRouteChange closes sessions whose entry in Redis has gone or leads
	// to another node. Default false: they end when one side ends them.
	CloseOnRouteChange bool `json:"closeOnRouteChange,omitempty"`
	// WaitForEnd has a handshake's request last as long as its session, as on a
	// static route: the access log tells of it when it ends, with its length, and
	// inFlightReq counts it meanwhile. Each session keeps its request in memory
	// then, and the goroutine that serves it. Default false: the request is over
	// when the session starts.
	WaitForEnd bool `json:"waitForEnd,omitempty"`
}

// minIdleTimeout keeps sessions from being looked at all the time.
const minIdleTimeout = time.Second

// sessionSettings is a checked WebSocketConfig.
type sessionSettings struct {
	idleTimeout        time.Duration // 0: never
	maxPerNode         int           // 0: no limit
	closeOnRouteChange bool
	waitForEnd         bool
	bounded            bool // there is an idleTimeout, closeOnRouteChange or waitForEnd
}

// newSessionSettings checks the websocket options. The error names the option.
func newSessionSettings(config *WebSocketConfig) (*sessionSettings, error) {
	s := &sessionSettings{maxPerNode: config.MaxPerNode, closeOnRouteChange: config.CloseOnRouteChange, waitForEnd: config.WaitForEnd}
	if err := setDuration(&s.idleTimeout, "websocket.idleTimeout", config.IdleTimeout); err != nil {
		return nil, err
	}
	if s.idleTimeout > 0 && s.idleTimeout < minIdleTimeout {
		return nil, fmt.Errorf("websocket.idleTimeout: %s is too short to tell silence: use 1s or more, or 0 for never", s.idleTimeout)
	}
	if s.maxPerNode < 0 {
		return nil, fmt.Errorf("websocket.maxPerNode: %d is no number of sessions: use 1 or more, or 0 for no limit", s.maxPerNode)
	}
	s.bounded = s.idleTimeout > 0 || s.closeOnRouteChange || s.waitForEnd
	return s, nil
}

// census counts the sessions of each node, those of all routers together. It
// counts those without a limit too, since another router to the node may have one.
type census struct {
	mu    sync.Mutex
	nodes map[string]*crowd // by host:port; those without a session are not in it
}

// crowd is the sessions of a node.
type crowd struct {
	address string
	count   int
}

// everybody is the census of this Traefik. Like everything it outlives reloads.
var everybody = &census{nodes: map[string]*crowd{}}

// take counts one more session of a node, unless it has max already; 0: no limit. It
// returns nil then, and else what leave takes. It is called with the lock held; what
// most handshakes need of it stands in work, too.
func take(c *census, address string, max int) *crowd {
	node := c.nodes[address]
	if node == nil {
		node = &crowd{address: address}
		c.nodes[address] = node
	}
	if max > 0 && node.count >= max {
		return nil
	}
	node.count++
	return node
}

// leave counts one session less.
func leave(c *census, node *crowd) {
	c.mu.Lock()
	node.count--
	if node.count == 0 {
		delete(c.nodes, node.address)
	}
	c.mu.Unlock()
}
