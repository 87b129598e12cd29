package dynamicforward

import (
	"context"
	"net/http"

	"github.com/traefik/genconf/dynamic"
)

// What lives long is made by way of these. Yaegi: a frame keeps the one alive that has called
// it, with all that its variables hold, and a function literal, or a goroutine, the frame in
// which it was made. So a way to a node would keep the request that was the first to go there,
// what all middlewares share the first of them, after reloads too, and a node of a Cluster the
// one that has led to it. What a function literal calls hangs on the frame in which that was
// made: here init's.
var (
	apartWay       func(m *middleware, node *target) *way
	apartLanes     func(f *forwarder, to *way, room int) *lanes
	apartTable     func(ctx context.Context, redis *redisSettings, cache *tableSettings) *table
	apartForwarder func(ctx context.Context, servers *dynamic.ServersTransport, responses *dynamic.ResponseForwarding, targets *TargetsConfig) (*forwarder, error)
	apartLink      func(settings *redisSettings, address string, owner *cluster) *link
)

// What each way has function literals for is made by way of these. Yaegi: of newWay's frame,
// with all its intermediate values, they would keep four fifths of what a way takes.
var (
	apartFailure  func(m *middleware, to *way) func(w http.ResponseWriter, out *http.Request, err error)
	apartDirector func(direct func(out *http.Request), host string) func(out *http.Request)
	apartDebug    func(m *middleware, to *way) func(response *http.Response) error
)

func init() {
	apartWay = func(m *middleware, node *target) *way {
		to := newWay(m, node)
		return to
	}
	apartLanes = func(f *forwarder, to *way, room int) *lanes {
		g := newLanes(f, to, room)
		return g
	}
	apartTable = func(ctx context.Context, redis *redisSettings, cache *tableSettings) *table {
		t := joinTable(ctx, redis, cache)
		return t
	}
	apartForwarder = func(ctx context.Context, servers *dynamic.ServersTransport, responses *dynamic.ResponseForwarding, targets *TargetsConfig) (*forwarder, error) {
		f, err := joinForwarder(ctx, servers, responses, targets)
		return f, err
	}
	apartLink = func(settings *redisSettings, address string, owner *cluster) *link {
		k := newLink(settings, address, owner)
		k.start()
		return k
	}
	apartFailure = func(m *middleware, to *way) func(w http.ResponseWriter, out *http.Request, err error) {
		return func(w http.ResponseWriter, out *http.Request, err error) { m.nodeFailed(w, out, err, to) }
	}
	apartDirector = func(direct func(out *http.Request), host string) func(out *http.Request) {
		return func(out *http.Request) {
			direct(out)
			out.Host = host
		}
	}
	apartDebug = func(m *middleware, to *way) func(response *http.Response) error {
		return func(response *http.Response) error {
			m.attemptOf(response.Request, to).debug(response.Header)
			return nil
		}
	}
}
