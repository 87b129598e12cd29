package main

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

func TestDemo(t *testing.T) { play(t, "redis-server on 127.0.0.1:") }

// On a machine with neither redis-server nor curl.
func TestDemoWithNothingInstalled(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := exec.LookPath("curl"); err == nil {
		t.Fatal("curl is still there")
	}
	play(t, "embedded one (miniredis) on 127.0.0.1:")
}

func play(t *testing.T, want ...string) {
	t.Helper()
	var out bytes.Buffer
	if err := run(t.Context(), &out, true); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	want = append(want, "HSET game-server_dev_node_wgamed 1 127.0.0.1:", "curl -ig 'localhost:",
		"/ws?nodeName=wgamed&threadId=1&platform=dev'", "HTTP/1.1 200 OK", "<p>hello, world!</p>",
		"101 Switching Protocols", "< hello, node")
	for _, text := range want {
		if !strings.Contains(out.String(), text) {
			t.Errorf("the demo does not show %q:\n%s", text, out.String())
		}
	}
}
