package stack

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
)

// Sentinels is a Redis master, a replica of it, and Sentinels that make the
// replica the master when the master dies.
type Sentinels struct {
	Name    string // of the master, for the Sentinels
	Master  *Redis // the first one
	Replica *Redis
	All     []*Sentinel
}

// StartSentinels starts a master, a replica and three Sentinels, and waits until
// they know each other.
func StartSentinels(name string) (*Sentinels, error) {
	s := &Sentinels{Name: name}
	if err := s.start(); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

func (s *Sentinels) start() error {
	var err error
	if s.Master, err = StartRedis(RedisOptions{Args: []string{"--repl-diskless-sync-delay", "0"}}); err != nil {
		return err
	}
	s.Replica, err = StartRedis(RedisOptions{Args: []string{"--replicaof", "127.0.0.1", s.Master.Port()}})
	if err != nil {
		return err
	}
	if !waitFor(patience, nil, func() bool { return s.Replica.replicates() }) {
		return fmt.Errorf("the replica does not follow its master:\n%s", tail(s.Replica.Log(), 10))
	}
	const count = 3
	for range count {
		one, err := startSentinel(s.Name, s.Master.Port())
		if err != nil {
			return err
		}
		s.All = append(s.All, one)
	}
	if !waitFor(patience, nil, func() bool {
		for _, one := range s.All {
			if one.knows(s.Name, "num-slaves") != "1" || one.knows(s.Name, "num-other-sentinels") != fmt.Sprint(count-1) {
				return false
			}
		}
		return true
	}) {
		return fmt.Errorf("the Sentinels do not find each other:\n%s", tail(s.All[0].process.log(), 10))
	}
	return nil
}

// replicates tells whether a replica has its master's data.
func (r *Redis) replicates() bool {
	info, _ := redis.String(r.Do("INFO", "replication"))
	return strings.Contains(info, "master_link_status:up")
}

// Addrs returns the addresses of the Sentinels.
func (s *Sentinels) Addrs() []string {
	var addrs []string
	for _, one := range s.All {
		addrs = append(addrs, one.Addr())
	}
	return addrs
}

// Current returns the server that the Sentinels have made the master, once all
// of them say the same and it agrees.
func (s *Sentinels) Current() (*Redis, bool) {
	addr := s.All[0].Master(s.Name)
	for _, one := range s.All {
		if one.process.alive() && one.Master(s.Name) != addr {
			return nil, false
		}
	}
	for _, r := range []*Redis{s.Master, s.Replica} {
		if r.Addr() != addr {
			continue
		}
		role, err := redis.Values(r.Do("ROLE"))
		if err != nil {
			return nil, false
		}
		kind, err := redis.String(role[0], nil)
		return r, err == nil && kind == "master"
	}
	return nil, false
}

// Stop ends everything.
func (s *Sentinels) Stop() {
	for _, one := range s.All {
		one.Stop()
	}
	for _, r := range []*Redis{s.Replica, s.Master} {
		if r != nil {
			r.Stop()
		}
	}
}

// Sentinel is a redis-server that watches others.
type Sentinel struct {
	addr    string
	dir     string
	process *process

	mu   sync.Mutex
	conn redis.Conn
}

// startSentinel starts a Sentinel for a master on 127.0.0.1. It is quick: half a
// second of silence is a death.
func startSentinel(master, port string) (*Sentinel, error) {
	dir, err := os.MkdirTemp("", "dynamicforward-sentinel-")
	if err != nil {
		return nil, err
	}
	s := &Sentinel{dir: dir}
	err = onFreePort(func(addr string) error {
		s.addr = addr
		_, own, _ := net.SplitHostPort(addr)
		conf := filepath.Join(dir, "sentinel.conf")
		text := fmt.Sprintf(`bind 127.0.0.1
port %s
dir %s
sentinel monitor %s 127.0.0.1 %s 2
sentinel down-after-milliseconds %s 500
sentinel failover-timeout %s 3000
`, own, dir, master, port, master, master)
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			return err
		}
		logFile := filepath.Join(dir, "sentinel.log")
		_ = os.Remove(logFile)
		var err error
		if s.process, err = startProcess(exec.Command("redis-server", conf, "--sentinel"), logFile); err != nil {
			return err
		}
		if waitFor(patience, s.process.done, func() bool { _, err := s.Do("PING"); return err == nil }) {
			return nil
		}
		if strings.Contains(s.process.log(), "Address already in use") {
			return errPortTaken
		}
		return fmt.Errorf("the Sentinel does not answer; the end of its log:\n%s", tail(s.process.log(), 10))
	})
	if err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// Addr returns the address that it listens on, host:port.
func (s *Sentinel) Addr() string { return s.addr }

// Do sends one command over a connection of its own.
func (s *Sentinel) Do(command string, args ...any) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		conn, err := redis.Dial("tcp", s.addr, redis.DialConnectTimeout(5*time.Second), redis.DialReadTimeout(10*time.Second))
		if err != nil {
			return nil, err
		}
		s.conn = conn
	}
	reply, err := s.conn.Do(command, args...)
	if s.conn.Err() != nil {
		s.conn.Close()
		s.conn = nil
	}
	return reply, err
}

// knows returns a value of what it tells about a master.
func (s *Sentinel) knows(master, what string) string {
	values, _ := redis.StringMap(s.Do("SENTINEL", "MASTER", master))
	return values[what]
}

// Master returns the address of a master, as it knows it.
func (s *Sentinel) Master(name string) string {
	addr, err := redis.Strings(s.Do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name))
	if err != nil || len(addr) != 2 {
		return ""
	}
	return net.JoinHostPort(addr[0], addr[1])
}

// Kill ends it with SIGKILL.
func (s *Sentinel) Kill() { s.process.kill() }

// Stop ends it and removes its files.
func (s *Sentinel) Stop() {
	s.mu.Lock()
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
	s.mu.Unlock()
	if s.process != nil {
		s.process.stop(5 * time.Second)
	}
	_ = os.RemoveAll(s.dir)
}
