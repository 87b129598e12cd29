package e2e

import (
	"io"
	"strings"
	"testing"
)

// What worked with the OpenResty server works here, byte for byte as curl
// sends it.
func TestAcceptance(t *testing.T) {
	path := usual(t)
	do(t, redis, "HSET", "game-server_dev_node_wgamed", "1", node.Addr())

	c := dial(t)
	c.send(t,
		"GET "+path+"?nodeName=wgamed&threadId=1&platform=dev HTTP/1.1",
		"Host: localhost:8080", "User-Agent: curl/8.0", "Accept: */*", "Connection: close")
	answer, err := io.ReadAll(c)
	must(t, err)

	if !strings.HasPrefix(string(answer), "HTTP/1.1 200 OK\r\n") || !strings.HasSuffix(string(answer), "<p>hello, world!</p>") {
		t.Fatalf("the answer is\n%s", answer)
	}
}
