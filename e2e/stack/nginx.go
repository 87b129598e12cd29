package stack

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Nginx is an nginx with a configuration of the caller's.
type Nginx struct {
	addr, dir, main, http string
	process               *process
}

// StartNginx starts nginx, in a single process, with what its http block holds. It
// waits until somebody listens at ADDR, which stands for a free address there.
func StartNginx(http string) (*Nginx, error) {
	return startNginx("master_process off;\nevents {}\n", http)
}

// startNginx starts nginx with what stands outside its http block, too.
func startNginx(main, http string) (*Nginx, error) {
	dir, err := os.MkdirTemp("", "dynamicforward-nginx-")
	if err != nil {
		return nil, err
	}
	n := &Nginx{dir: dir, main: main, http: http}
	if err := onFreePort(n.start); err != nil {
		n.Stop()
		return nil, err
	}
	return n, nil
}

func (n *Nginx) start(addr string) error {
	n.addr = addr
	bin, err := exec.LookPath("nginx")
	if err != nil {
		return errors.New("no nginx: apt-get install nginx-light")
	}
	conf := filepath.Join(n.dir, "nginx.conf")
	text := `daemon off;
pid nginx.pid;
error_log stderr error;
` + n.main + `http {
access_log off;
client_body_temp_path body;
proxy_temp_path proxy;
fastcgi_temp_path fastcgi;
uwsgi_temp_path uwsgi;
scgi_temp_path scgi;
` + strings.ReplaceAll(n.http, "ADDR", addr) + "}\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return err
	}
	logFile := filepath.Join(n.dir, "nginx.log")
	_ = os.Remove(logFile)
	if n.process, err = startProcess(exec.Command(bin, "-e", "stderr", "-p", n.dir, "-c", conf), logFile); err != nil {
		return err
	}
	listens := func() bool {
		c, err := net.Dial("tcp", addr) // a request might lead nginx to itself
		if err == nil {
			c.Close()
		}
		return err == nil
	}
	if waitFor(patience, n.process.done, listens) {
		return nil
	}
	if strings.Contains(strings.ToLower(n.process.log()), "address already in use") {
		return fmt.Errorf("%s: %w", addr, errPortTaken)
	}
	return fmt.Errorf("nginx does not listen; the end of its log:\n%s", tail(n.process.log(), 10))
}

// Addr returns the address, host:port.
func (n *Nginx) Addr() string { return n.addr }

// Stop ends nginx and removes its files.
func (n *Nginx) Stop() {
	if n.process != nil {
		n.process.stop(5 * time.Second)
	}
	_ = os.RemoveAll(n.dir)
}
