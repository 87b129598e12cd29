package e2e

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// floodHeap is by how many bytes a flood of unknown names may make Traefik's
// live heap grow when as many as are remembered, 10,000, have come before: what
// remembers them takes some 5 MB more once, and no more after 600,000.
const floodHeap = 8 << 20

// unhurried is a link for tests that keep all processors busy, where an answer of Redis may
// be late by more than the second that it has by default.
var unhurried = stack.Options{"readTimeout": "30s"}

// fewEntries is room for the routes of these tests, and not much more.
var fewEntries = stack.Options{"maxEntries": 1000}

// 200,000 names that do not exist push no route out, and fill no memory.
func TestAFloodOfUnknownNames(t *testing.T) {
	w := setup{debug: true, cache: fewEntries, link: unhurried}.begin(t)
	count := 200_000 // one to two minutes: each costs a look-up and an answer of the plugin's own
	if testing.Short() {
		count = 20_000
	}
	aFloodOfUnknownNames(w, count)
}

func aFloodOfUnknownNames(w *world, count int) {
	w.t.Helper()
	names := w.warm(100)
	w.unknownNames(20_000) // those that are remembered, and Traefik's own part of it
	before, err := w.traefik.LiveHeap()
	must(w.t, err)
	hgets, since := w.hgets(), time.Now()
	known := w.underLoad(1, w.asking(names, "a"), func() { w.unknownNames(count) })
	for _, name := range names {
		w.want(name, "a")
	}
	// Known routes are read again once a minute, and never because of others.
	begun := w.hgets() - hgets - count
	minutes := int(time.Since(since)/time.Minute) + 2
	w.t.Logf("%d requests for known routes meanwhile, %d look-ups of them", known, begun)
	if begun < -count/100 || begun > minutes*len(names) {
		w.t.Errorf("%d unknown names cost %d look-ups", count, begun+count)
	}
	after, err := w.traefik.LiveHeap()
	must(w.t, err)
	w.t.Logf("live heap: %.1f MB before, %.1f MB after %d unknown names", float64(before)/1e6, float64(after)/1e6, count)
	if after > before+floodHeap {
		w.t.Errorf("the live heap grew by %d bytes; want %d at most", after-before, floodHeap)
	}
}

// unknownNames asks for so many names that do not exist.
func (w *world) unknownNames(count int) {
	w.t.Helper()
	w.flood(count, "404", func() string { return fmt.Sprintf("made-up-%x", rand.Uint64()) })
}

// flood asks so many times for a name, many at a time on each of a few connections,
// and wants each answered with a status.
func (w *world) flood(count int, want string, name func() string) {
	w.t.Helper()
	const conns, batch = 32, 50
	var next, wrong atomic.Int64
	var all sync.WaitGroup
	for range conns {
		all.Go(func() {
			c, err := net.Dial("tcp", w.traefik.Addr())
			if err != nil {
				w.t.Error(err)
				return
			}
			defer c.Close()
			in := bufio.NewReader(c)
			for next.Add(batch) <= int64(count) {
				_ = c.SetDeadline(time.Now().Add(time.Minute))
				var requests strings.Builder
				for range batch {
					fmt.Fprintf(&requests, "GET /ws%s HTTP/1.1\r\nHost: game\r\n\r\n", query(name()))
				}
				if _, err := io.WriteString(c, requests.String()); err != nil {
					w.t.Error(err)
					return
				}
				for range batch {
					status, err := skipResponse(in)
					if err != nil {
						w.t.Error(err)
						return
					}
					if status != want && wrong.Add(1) <= 5 {
						w.t.Errorf("a request is answered %s, want %s", status, want)
					}
				}
			}
		})
	}
	all.Wait()
	if wrong.Load() > 0 {
		w.t.Errorf("%d of %d requests were not answered %s", wrong.Load(), count, want)
	}
}

// plainHeap is by how many bytes 200,000 plain requests may make Traefik's live heap
// grow: 40 for each.
const plainHeap = 8 << 20

func TestPlainRequestsLeaveNothingInMemory(t *testing.T) {
	w := setup{debug: true}.begin(t)
	names := w.warm(100)
	known := func() string { return names[rand.IntN(len(names))] }
	w.flood(20_000, "200", known)
	before, err := w.traefik.LiveHeap()
	must(t, err)
	w.flood(200_000, "200", known)
	after, err := w.traefik.LiveHeap()
	must(t, err)
	t.Logf("live heap: %.1f MB before, %.1f MB after", float64(before)/1e6, float64(after)/1e6)
	if after > before+plainHeap {
		t.Errorf("the live heap grew by %d bytes; want %d at most", after-before, plainHeap)
	}
}

// skipResponse reads past a response with a Content-Length and returns its
// status. http.ReadResponse would take most of the time of a flood.
func skipResponse(in *bufio.Reader) (string, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return "", err
	}
	_, status, _ := strings.Cut(line, " ")
	status, _, _ = strings.Cut(status, " ")
	header, err := textproto.NewReader(in).ReadMIMEHeader()
	if err != nil {
		return "", err
	}
	length, err := strconv.Atoi(header.Get("Content-Length"))
	if err != nil {
		return "", fmt.Errorf("%s: Content-Length: %w", strings.TrimSpace(line), err)
	}
	_, err = in.Discard(length)
	return status, err
}
