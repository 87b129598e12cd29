package differential

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// difference is one that is meant. The README says it in bold, and why, in its
// section "Differences from a static route".
type difference struct {
	what string
	// expected makes of what the static route does what the plugin does.
	expected func(outcomes) outcomes
}

// differences are all that there are.
var differences = []*difference{ownAnswers, noGzip, earlyBytes, asWritten, passedReset, bodyIsNoHandshake}

var ownAnswers = &difference{
	what: "A node that fails is told by cause",
	expected: func(o outcomes) outcomes {
		at := failure.FindStringIndex(o.client)
		if at == nil {
			return o
		}
		o.client = o.client[:at[0]] + nodeDown + o.client[at[1]:]
		return o
	},
}

// failure is the answer of a static route for a node that fails, and nodeDown the
// plugin's.
var failure = regexp.MustCompile("  HTTP/1.1 (500 Internal Server Error|502 Bad Gateway)\n(  .*\n)*")

const nodeDown = `  HTTP/1.1 502 Bad Gateway
  Content-Length: 38
  Content-Type: text/plain; charset=utf-8
  Date: now
  X-Content-Type-Options: nosniff
  body: "node-down: the node cannot be reached\n" 
`

var noGzip = &difference{
	what: "No gzip that the client did not ask for",
	expected: func(o outcomes) outcomes {
		o.node = strings.Replace(o.node, "  Accept-Encoding: gzip\n", "", 1)
		// Traefik unpacked it, and lost its length.
		o.client = strings.Replace(o.client,
			"  Content-Type: text/plain\n  Date: now\n  Transfer-Encoding: chunked\n",
			"  Content-Length: 12\n  Content-Type: text/plain\n  Date: now\n", 1)
		return o
	},
}

var earlyBytes = &difference{
	what: "What a client sends right behind its handshake is not lost",
	expected: func(o outcomes) outcomes {
		o.client = strings.Replace(o.client, `"late"`, `"early late"`, 1)
		return o
	},
}

var passedReset = &difference{
	what: "The reset of a client's connection resets its node's",
	expected: func(o outcomes) outcomes {
		o.node = strings.Replace(o.node, "the connection was reset: false\n", "the connection was reset: true\n", 1)
		return o
	},
}

var bodyIsNoHandshake = &difference{
	what: "A request with a body is no handshake",
	expected: func(o outcomes) outcomes {
		o.node = strings.NewReplacer("  Connection: Upgrade\n", "", "  Upgrade: websocket\n", "").Replace(o.node)
		return o
	},
}

// asWritten is expected of every agreement.
var asWritten = &difference{
	what: "A node's agreement to a handshake reaches the client as the node has written it",
	expected: func(o outcomes) outcomes {
		before, agreement, agreed := strings.Cut(o.client, "  HTTP/1.1 101 ")
		if agreed {
			o.client = before + "  HTTP/1.1 101 " + traefiksHand.Replace(agreement)
		}
		return o
	},
}

// traefiksHand makes of how Traefik writes agreements how the shapes' nodes do.
var traefiksHand = strings.NewReplacer("  Sec-Websocket-", "  Sec-WebSocket-", "  X-Empty: \n", "  X-Empty:\n", "  Content-Length: 0\n", "")

// The README lists the differences that the shapes show, and no others.
func TestReadmeListsTheDifferences(t *testing.T) {
	root, err := stack.Root()
	must(t, err)
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	must(t, err)
	_, section, found := strings.Cut(string(readme), "\n### Differences from a static route\n")
	if !found {
		t.Fatal("the README has no such section")
	}
	section, _, _ = strings.Cut(section, "\n##")
	var listed, want []string
	for _, match := range regexp.MustCompile(`(?m)^- \*\*(.*)\.\*\*`).FindAllStringSubmatch(section, -1) {
		listed = append(listed, match[1])
	}
	for _, d := range differences {
		want = append(want, d.what)
		if !slices.ContainsFunc(shapes, func(s shape) bool { return s.differs == d }) {
			t.Errorf("no shape shows this: %s", d.what)
		}
	}
	slices.Sort(listed)
	slices.Sort(want)
	if !slices.Equal(listed, want) {
		t.Errorf("the README lists\n%q; want\n%q", listed, want)
	}
	if len(shapes) < 60 {
		t.Errorf("there are %d shapes", len(shapes))
	}
}
