// Package dynamicforward is a Traefik middleware plugin that forwards each
// request, mostly the handshake of a WebSocket that then stays open for hours,
// to the one node whose address Redis holds under a key and a field made from
// the request. Adding, moving or removing a node is one Redis command.
//
// The package runs interpreted, by the Yaegi inside Traefik. Lines that look
// odd because of it say so.
package dynamicforward

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/traefik/genconf/dynamic"
	"github.com/traefik/genconf/dynamic/types"
)

// Config is the plugin's part of Traefik's routing configuration. Every option
// has a default (see CreateConfig) except Redis.Endpoints. Traefik drops an
// option that is not listed here without a word.
type Config struct {
	// Project is what {project} stands for in Key and Field. Default
	// "game-server".
	Project string `json:"project,omitempty"`
	// Key is the template of the Redis key. Default
	// "{project}_{platform}_node_{nodeName}".
	Key string `json:"key,omitempty"`
	// Field is the template of the field in that hash. Default "{threadId}".
	// Empty: the key is a string, read with GET.
	Field string `json:"field,omitempty"`
	// Redis says where the nodes' addresses are.
	Redis RedisConfig `json:"redis,omitempty"`
	// Cache says what is kept of Redis in memory, and for how long.
	Cache CacheConfig `json:"cache,omitempty"`
	// Targets says which addresses may be forwarded to.
	Targets TargetsConfig `json:"targets,omitempty"`
	// CatchAll says who forwards. Default "builtin": the plugin. "service": the
	// router's service, which goes by Host: URL and Host are rewritten to the
	// node, and the address is in X-Dynamicforward-Node. What only the plugin
	// can honour (ServersTransport, ResponseForwarding, WebSocket, Fallback) is
	// refused then.
	CatchAll string `json:"catchAll,omitempty"`
	// PassHostHeader passes the client's Host on to the node, as in Traefik.
	// Default true; false: Host is the node's address, as it always is with
	// CatchAll "service".
	PassHostHeader bool `json:"passHostHeader"`
	// Fallback hands a request for which there is no route (bad-request,
	// unknown-node, redis-down) to the router's own service, with the reason
	// word in the request header X-Dynamicforward-Error. Default false.
	Fallback bool `json:"fallback,omitempty"`
	// ErrorStatus replaces the status of the answers that mean that there is
	// no route (bad-request, unknown-node, redis-down). Default 0: the status
	// tells the cause.
	ErrorStatus int `json:"errorStatus,omitempty"`
	// ServersTransport configures the connections to the nodes, with Traefik's
	// own names, meaning and defaults, but for forwardingTimeouts.dialTimeout
	// (2s) and forwardingTimeouts.responseHeaderTimeout (60s).
	ServersTransport *dynamic.ServersTransport `json:"serversTransport,omitempty"`
	// ResponseForwarding.flushInterval is how often what has come of a response
	// is passed on while the rest is on its way, as in Traefik. Default "100ms";
	// "0": when a buffer is full; negative: at once, as always with event streams
	// and responses whose length is not known.
	ResponseForwarding *dynamic.ResponseForwarding `json:"responseForwarding,omitempty"`
	// WebSocket bounds sessions.
	WebSocket WebSocketConfig `json:"websocket,omitempty"`
	// DebugHeaders adds X-Dynamicforward-Node, the node's address, and
	// X-Dynamicforward-Cache (hit, miss, or stale: Redis does not answer) to the
	// response. Default false: clients do not learn addresses.
	DebugHeaders bool `json:"debugHeaders,omitempty"`
}

// RedisConfig says how to reach Redis. The names are those of Traefik's own
// Redis options. Durations are strings such as "1s" or "250ms"; a bare number
// is seconds. README.md has an example of each way.
type RedisConfig struct {
	// Endpoints is where the server is, as host:port or unix:///path.
	// Required. One for a server; one or more of the Sentinels, or of the
	// nodes of a Cluster, each as host:port.
	Endpoints []string `json:"endpoints,omitempty"`
	// Username is the ACL user (Redis 6). Default "": the default user.
	Username string `json:"username,omitempty"`
	// Password authenticates Username. Default "": no AUTH is sent.
	Password string `json:"password,omitempty"`
	// PasswordFile is the path of a file that holds the password instead, and
	// nothing else but a line's end. It is read at each reload of
	// Traefik's configuration, and at each new connection. Default "": Password counts.
	PasswordFile string `json:"passwordFile,omitempty"`
	// DB is the database to select. Default 0, the only one of a Cluster.
	DB int `json:"db,omitempty"`
	// TLS, where it is there, makes all connections TLS ones, also those to
	// Sentinels: ca, cert and key (each a path or the PEM itself, read again at
	// each new connection) and insecureSkipVerify. No ca: the system's roots.
	// Default: plain TCP.
	TLS *types.ClientTLS `json:"tls,omitempty"`
	// Sentinel, where it is there, makes Endpoints the Sentinels, which are
	// asked for the master. Default: Endpoints is the server.
	Sentinel *SentinelConfig `json:"sentinel,omitempty"`
	// Cluster makes Endpoints nodes of a Redis Cluster, which are asked for
	// all the others. Default false.
	Cluster bool `json:"cluster,omitempty"`
	// DialTimeout bounds connecting, with the TLS handshake. Default "1s".
	DialTimeout string `json:"dialTimeout,omitempty"`
	// ReadTimeout bounds the wait for one reply. Default "1s".
	ReadTimeout string `json:"readTimeout,omitempty"`
	// WriteTimeout bounds the sending of one command. Default "1s".
	WriteTimeout string `json:"writeTimeout,omitempty"`
}

// SentinelConfig says which master the Sentinels are asked for.
type SentinelConfig struct {
	// MasterName is the master's name, as SENTINEL MASTERS shows it. Required.
	MasterName string `json:"masterName,omitempty"`
	// Username is the Sentinels' own ACL user (Redis 6.2). Default "": the
	// default user.
	Username string `json:"username,omitempty"`
	// Password is the Sentinels' own password. Default "": no AUTH is sent to
	// them; RedisConfig's are for the master alone.
	Password string `json:"password,omitempty"`
}

// CacheConfig bounds the routing table. Durations are as in RedisConfig.
type CacheConfig struct {
	// MaxEntries is how many routes are kept. Default 100000. Names without a
	// node are kept apart, 10000 at most.
	MaxEntries int `json:"maxEntries,omitempty"`
	// TTL is how long a route is trusted where Redis cannot push changes.
	// Default "1s".
	TTL string `json:"ttl,omitempty"`
	// NegativeTTL is the same for "no such node". Default "1s".
	NegativeTTL string `json:"negativeTTL,omitempty"`
	// StaleTTL is how long a known route is used while Redis does not answer.
	// Default "24h"; "0": not at all.
	StaleTTL string `json:"staleTTL,omitempty"`
}

// CreateConfig returns the defaults.
func CreateConfig() *Config {
	return &Config{
		Project:        "game-server",
		Key:            "{project}_{platform}_node_{nodeName}",
		Field:          "{threadId}",
		CatchAll:       catchAllBuiltin,
		PassHostHeader: true,
		Redis: RedisConfig{
			DialTimeout:  "1s",
			ReadTimeout:  "1s",
			WriteTimeout: "1s",
		},
		Cache: CacheConfig{
			MaxEntries:  100000,
			TTL:         "1s",
			NegativeTTL: "1s",
			StaleTTL:    "24h",
		},
		WebSocket: WebSocketConfig{IdleTimeout: "0s"},
	}
}

// middleware is one router's use of the plugin.
type middleware struct {
	name           string
	next           http.Handler
	rule           *rule      // request -> key and field
	table          *table     // key and field -> node
	nodes          *forwarder // node -> answer
	service        bool       // next forwards, in place of nodes
	passHostHeader bool
	errorStatus    int
	fallback       bool
	debugHeaders   bool
	sessions       *sessionSettings
	current        func() bool // there was no reload since
	short          *shortcuts  // what counts of a request -> node, for most requests
	ways           *memo       // address -> *way
}

// New checks the configuration and returns the handler for one router. It does
// not wait for Redis: one that is not there yet is no reason for a router to be
// missing. Traefik calls New for every router at every reload, and ends ctx at
// the next one. The error names the option that is wrong and says what to do.
func New(ctx context.Context, next http.Handler, config *Config, name string) (http.Handler, error) {
	m, err := newMiddleware(ctx, next, config, name)
	if err != nil {
		return nil, fmt.Errorf("dynamicforward %s: %w", name, err)
	}
	return m.handler(), nil
}

func newMiddleware(ctx context.Context, next http.Handler, config *Config, name string) (*middleware, error) {
	rule, err := newRule(config)
	if err != nil {
		return nil, err
	}
	redis, err := newRedisSettings(&config.Redis)
	if err != nil {
		return nil, err
	}
	cache, err := newTableSettings(&config.Cache)
	if err != nil {
		return nil, err
	}
	if config.ErrorStatus != 0 && (config.ErrorStatus < 400 || config.ErrorStatus > 599) {
		return nil, fmt.Errorf("errorStatus: %d is no error status: use 400 to 599, or 0 for one that tells the cause", config.ErrorStatus)
	}
	sessions, err := newSessionSettings(&config.WebSocket)
	if err != nil {
		return nil, err
	}
	if err := checkCatchAll(config, sessions); err != nil {
		return nil, err
	}
	nodes, err := apartForwarder(ctx, config.ServersTransport, config.ResponseForwarding, &config.Targets)
	if err != nil {
		return nil, err
	}
	m := &middleware{
		name:           name,
		next:           next,
		rule:           rule,
		table:          apartTable(ctx, redis, cache),
		nodes:          nodes,
		service:        config.CatchAll == catchAllService,
		passHostHeader: config.PassHostHeader,
		errorStatus:    config.ErrorStatus,
		fallback:       config.Fallback,
		debugHeaders:   config.DebugHeaders,
		sessions:       sessions,
		current:        func() bool { return ctx.Err() == nil },
		short:          newShortcuts(nil),
		ways:           &memo{max: maxWays},
	}
	if !m.debugHeaders && !m.service {
		m.short.rule = rule
	}
	if sessions.closeOnRouteChange {
		m.short.entries = map[string]*entry{}
	}
	m.table.join(ctx, m.short)
	return m, nil
}

// longWay takes a request to its node step by step: the key and field that it
// asks for, the node that Redis holds there, and to that node.
func longWay(m *middleware, w http.ResponseWriter, r *http.Request) {
	dropForged(r.Header)
	key, field, err := m.rule.apply(r)
	if err != nil {
		m.refuse(w, r, key, field, err)
		return
	}
	route, how, err := m.table.find(r.Context(), key, field)
	if err != nil {
		m.refuse(w, r, key, field, err)
		return
	}
	a := &attempt{m: m, route: route, found: how, way: m.to(route.node)}
	if m.service {
		a.debug(w.Header())
		a.callService(w, r)
		return
	}
	if short, ok := shortcutOf(m.short, r); ok {
		m.table.remember(route, m.short, short, a.way)
	}
	m.forward(w, r, a)
}

// headerPrefix begins the names of the headers that are the plugin's own.
const headerPrefix = "X-Dynamicforward-"

// The plugin's headers.
const (
	nodeHeader  = headerPrefix + "Node"  // the chosen address, for Traefik's access log and metrics
	errorHeader = headerPrefix + "Error" // on a request that falls back: the reason word
	cacheHeader = headerPrefix + "Cache" // on a response, with debugHeaders
)

// dropNodeHeader is a Connection header that makes the proxy keep nodeHeader from
// the node, without a copy of the request in which to delete it.
var dropNodeHeader = []string{nodeHeader}

// dropForged removes the headers that a client may not send: those in the
// plugin's name.
func dropForged(header http.Header) {
	for name := range header {
		if strings.HasPrefix(name, headerPrefix) {
			delete(header, name)
		}
	}
}
