package dynamicforward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// The causes of an answer that the plugin gives itself. Their texts are the
// reason words that the documentation, logs and clients use.
var (
	errBadRequest  = errors.New("bad-request")
	errUnknownNode = errors.New("unknown-node")
	errBadTarget   = errors.New("bad-target")
	errNodeDown    = errors.New("node-down")
	errNodeTimeout = errors.New("node-timeout")
	errRedisDown   = errors.New("redis-down")
	errNodeFull    = errors.New("node-full")
)

// errBadBody is a bad request too, but one that has used its body up, so it
// cannot fall back.
var errBadBody = errors.New("bad-request: the request's body broke off")

// errPanic is the cause of a log line about a bug of ours. No request sees it.
var errPanic = errors.New("panic")

// answer is a row of the table of answers.
type answer struct {
	cause      error
	status     int
	noRoute    bool // errorStatus replaces the status, and fallback hands the request on
	retryAfter int  // seconds; 0: no such header
	look       string
}

// answers is the table of answers, one row a cause. look tells the client where
// to look, and never an address or a key.
var answers = []answer{
	{cause: errBadRequest, status: http.StatusBadRequest, noRoute: true},
	{cause: errBadBody, status: http.StatusBadRequest},
	{cause: errUnknownNode, status: http.StatusNotFound, noRoute: true, look: "no such node"},
	{cause: errBadTarget, status: http.StatusBadGateway, look: "the node's entry in Redis cannot be used"},
	{cause: errNodeDown, status: http.StatusBadGateway, look: "the node cannot be reached"},
	{cause: errNodeTimeout, status: http.StatusGatewayTimeout, look: "the node did not answer in time"},
	{cause: errNodeFull, status: http.StatusServiceUnavailable, retryAfter: 1, look: "the node holds as many sessions as it may"},
	{cause: errRedisDown, status: http.StatusServiceUnavailable, noRoute: true, retryAfter: 1, look: "the node cannot be looked up right now"},
}

// statusClientGone is nginx's and Traefik's status for a client that did not wait
// for the answer, and clientGone what Traefik says then. They are seen in access
// logs, and by a client that has only said that it has no more to say.
const (
	statusClientGone = 499
	clientGone       = "Client Closed Request"
)

// refuse answers a request that is not forwarded, or lets it fall back, and logs
// why. What falls back while gateways change over is no failure.
func (m *middleware) refuse(w http.ResponseWriter, r *http.Request, key, field string, err error) {
	if errors.Is(err, context.Canceled) {
		w.WriteHeader(statusClientGone)
		_, _ = io.WriteString(w, clientGone)
		return
	}
	row := answerTo(err)
	if m.fallback && row.noRoute {
		if row.cause == errRedisDown {
			logFailure(row.cause, "%s: %s (key %q, field %q, falls back)", m.name, err.Error(), key, field)
		}
		r.Header.Set(errorHeader, row.cause.Error())
		m.next.ServeHTTP(w, r)
		return
	}
	logFailure(row.cause, "%s: %s (key %q, field %q, client %s)", m.name, err.Error(), key, field, r.RemoteAddr)
	status := row.status
	if row.noRoute && m.errorStatus != 0 {
		status = m.errorStatus
	}
	if row.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(row.retryAfter))
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = io.WriteString(w, m.publicText(row, err)+"\n")
	}
}

// publicText is the line that the client gets.
func (m *middleware) publicText(row *answer, err error) string {
	switch row.cause {
	case errBadRequest, errBadBody:
		return err.Error() // names the parameter, and nothing else
	case errUnknownNode:
		return fmt.Sprintf("%s: %s: check %s", row.cause.Error(), row.look, m.rule.names)
	default:
		return row.cause.Error() + ": " + row.look
	}
}

// answerTo finds the row of an error, which wraps one of the causes.
func answerTo(err error) *answer {
	for i := range answers {
		if errors.Is(err, answers[i].cause) {
			return &answers[i]
		}
	}
	return &answers[len(answers)-1] // what has no cause of its own went wrong on the way to Redis
}

// logEvery is the least time between two log lines for the same cause.
const logEvery = time.Second

// failures counts, for each cause, what was not logged since the last line.
var failures = struct {
	sync.Mutex
	last    map[string]time.Time
	skipped map[string]int
}{last: map[string]time.Time{}, skipped: map[string]int{}}

// logFailure logs at most one line a second for each cause, on all routers
// together, at ERROR: the only level above DEBUG that a plugin has in Traefik.
func logFailure(cause error, format string, args ...interface{}) {
	word := cause.Error()
	now := time.Now()
	failures.Lock()
	if now.Sub(failures.last[word]) < logEvery {
		failures.skipped[word]++
		failures.Unlock()
		return
	}
	failures.last[word] = now
	skipped := failures.skipped[word]
	failures.skipped[word] = 0
	failures.Unlock()
	line := fmt.Sprintf(format, args...)
	if skipped > 0 {
		line += fmt.Sprintf(" (%d more %s not logged)", skipped, word)
	}
	log.Print("dynamicforward " + line)
}
