package dynamicforward

import (
	"errors"
	"fmt"
	"net/http"
)

// The values of Config.CatchAll.
const (
	catchAllBuiltin = "builtin"
	catchAllService = "service"
)

// checkCatchAll checks CatchAll, and that the options beside it are ones that it
// can honour. The error names the option and the remedy.
func checkCatchAll(config *Config, sessions *sessionSettings) error {
	switch config.CatchAll {
	case catchAllBuiltin, "":
		return nil
	case catchAllService:
	default:
		return fmt.Errorf("catchAll: %q is none: use builtin, to forward here, or service, to have the router's service forward by Host", config.CatchAll)
	}
	if config.ServersTransport != nil {
		return errors.New("serversTransport: with catchAll: service the router's service connects, not this plugin: remove it, and give the service a serversTransport of its own")
	}
	if config.ResponseForwarding != nil {
		return errors.New("responseForwarding: with catchAll: service the router's service forwards, not this plugin: remove it, and give the service a responseForwarding of its own")
	}
	if sessions.idleTimeout > 0 || sessions.maxPerNode > 0 || sessions.closeOnRouteChange || sessions.waitForEnd {
		return errors.New("websocket: with catchAll: service sessions do not go through this plugin: remove it, or use catchAll: builtin")
	}
	if config.Fallback {
		return errors.New("fallback: with catchAll: service what has no route would be forwarded by the Host that the client chose: remove it, or use catchAll: builtin")
	}
	return nil
}

// callService rewrites a request to its node and has the router's service forward
// it, which goes by Host. The service learns the node's address, scheme and path
// prefix included, from nodeHeader too.
func (a *attempt) callService(w http.ResponseWriter, r *http.Request) {
	node := a.way.node
	if err := a.m.nodes.fence.admit(node.dial); err != nil {
		a.refuse(w, r, err)
		return
	}
	a.way.proxy.Director(r)
	if node.url.Path != "" {
		r.RequestURI = r.URL.RequestURI() // Traefik's services go by it
	}
	r.Host = node.url.Host
	if node.url.Scheme == "https" && node.url.Port() == "" {
		r.Host = node.dial // or a service that goes by Host would take it for port 80, which nobody has permitted
	}
	r.Header[nodeHeader] = a.way.header
	a.m.next.ServeHTTP(w, r)
}
