package stack

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// FastNode is a node for measurements: it runs in a process of its own and
// answers every request at once.
type FastNode struct {
	what, addr, dir string
	process         *process
}

// fastNodeAddr is the environment variable that makes ServeFastNode serve.
const fastNodeAddr = "DYNAMICFORWARD_FASTNODE"

const fastNodeBody = "<p>hello, world!</p>"

// ServeFastNode has to be called first by the main function of a program that
// calls StartFastNode: where there is no nginx the program itself is the node.
func ServeFastNode() {
	addr := os.Getenv(fastNodeAddr)
	if addr == "" {
		return
	}
	err := http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, fastNodeBody)
	}))
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// StartFastNode starts nginx or, where it is not installed, this program again.
func StartFastNode() (*FastNode, error) {
	dir, err := os.MkdirTemp("", "dynamicforward-node-")
	if err != nil {
		return nil, err
	}
	n := &FastNode{dir: dir}
	if err := onFreePort(n.start); err != nil {
		n.Stop()
		return nil, err
	}
	return n, nil
}

func (n *FastNode) start(addr string) error {
	n.addr = addr
	cmd, err := n.command()
	if err != nil {
		return err
	}
	logFile := filepath.Join(n.dir, "node.log")
	_ = os.Remove(logFile)
	if n.process, err = startProcess(cmd, logFile); err != nil {
		return err
	}
	answers := func() bool {
		resp, err := prober.Get("http://" + addr + "/")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}
	if waitFor(patience, n.process.done, answers) {
		return nil
	}
	if strings.Contains(strings.ToLower(n.process.log()), "address already in use") {
		return fmt.Errorf("%s: %w", addr, errPortTaken)
	}
	return fmt.Errorf("the node does not answer; the end of its log:\n%s", tail(n.process.log(), 10))
}

func (n *FastNode) command() (*exec.Cmd, error) {
	nginx, err := exec.LookPath("nginx")
	if err != nil {
		n.what = "a Go server in a process of its own"
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), fastNodeAddr+"="+n.addr)
		return cmd, nil
	}
	version, _ := exec.Command(nginx, "-v").CombinedOutput()
	_, number, _ := strings.Cut(strings.TrimSpace(string(version)), "nginx/")
	n.what = "nginx " + number + ", one worker"
	conf := filepath.Join(n.dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events { worker_connections 4096; }
http {
  access_log off;
  keepalive_requests 100000000;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  server {
    listen %s;
    default_type text/html;
    location / { return 200 "%s"; }
  }
}
`, n.addr, fastNodeBody)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return exec.Command(nginx, "-e", "stderr", "-p", n.dir, "-c", conf), nil
}

// What says what the node is.
func (n *FastNode) What() string { return n.what }

// Addr returns the node's address, host:port.
func (n *FastNode) Addr() string { return n.addr }

// Stop ends the node and removes its files.
func (n *FastNode) Stop() {
	if n.process != nil {
		n.process.stop(5 * time.Second)
	}
	_ = os.RemoveAll(n.dir)
}
