package stack

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gomodule/redigo/redis"
)

// RedisOptions say how to start redis-server. The zero value starts one
// without persistence or password.
type RedisOptions struct {
	// Bin is the binary; default: redis-server, found on the PATH.
	Bin string
	// Addr is where it listens; default: a free port of 127.0.0.1.
	Addr string
	// Password is what clients must give; default: none.
	Password string
	// UnixSocket makes it listen on a unix socket as well; see Socket.
	UnixSocket bool
	// Args are further arguments, such as "--tracking-table-max-keys", "100".
	Args []string
}

// Redis is a redis-server.
type Redis struct {
	o       RedisOptions
	addr    string
	dir     string
	process *process

	mu   sync.Mutex
	conn redis.Conn // of Do; nil: to be dialed
}

// StartRedis starts redis-server and waits until it answers.
func StartRedis(o RedisOptions) (*Redis, error) {
	if o.Bin == "" {
		o.Bin = "redis-server"
	}
	bin, err := exec.LookPath(o.Bin)
	if err != nil {
		return nil, fmt.Errorf("no %s on the PATH: install Debian's package redis-server (apt-get install redis-server)", o.Bin)
	}
	o.Bin = bin
	dir, err := os.MkdirTemp("", "dynamicforward-redis-")
	if err != nil {
		return nil, err
	}
	r := &Redis{o: o, dir: dir}
	if o.Addr != "" {
		err = r.start(o.Addr)
	} else {
		err = onFreePort(r.start)
	}
	if err != nil {
		r.Stop()
		return nil, err
	}
	return r, nil
}

func (r *Redis) start(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	r.addr = addr
	args := []string{
		"--bind", host, "--port", port, "--dir", r.dir, "--dbfilename", "dump.rdb",
		"--save", "", "--appendonly", "no", "--daemonize", "no",
	}
	if r.o.Password != "" {
		args = append(args, "--requirepass", r.o.Password)
	}
	if r.o.UnixSocket {
		args = append(args, "--unixsocket", r.Socket(), "--unixsocketperm", "700")
	}
	logFile := filepath.Join(r.dir, "redis.log")
	_ = os.Remove(logFile)
	if r.process, err = startProcess(exec.Command(r.o.Bin, append(args, r.o.Args...)...), logFile); err != nil {
		return err
	}
	// PING says LOADING until a dump is in memory.
	if waitFor(patience, r.process.done, func() bool { _, err := r.Do("PING"); return err == nil }) {
		return nil
	}
	if !r.process.alive() && strings.Contains(r.Log(), "Address already in use") {
		return fmt.Errorf("%s: %w", addr, errPortTaken)
	}
	return fmt.Errorf("redis-server does not answer; the end of its log:\n%s", tail(r.Log(), 10))
}

// Addr returns the address that it listens on, host:port.
func (r *Redis) Addr() string { return r.addr }

// Port returns the port that it listens on.
func (r *Redis) Port() string {
	_, port, _ := net.SplitHostPort(r.addr)
	return port
}

// Socket returns the path of its unix socket, if UnixSocket asked for one.
func (r *Redis) Socket() string { return filepath.Join(r.dir, "redis.sock") }

// Pid returns its process id.
func (r *Redis) Pid() int { return r.process.pid() }

// Log returns what it has logged so far.
func (r *Redis) Log() string { return r.process.log() }

// Do sends one command over a connection of its own, made when first needed
// and again after an error, and returns the reply. It counts in
// CommandStats as every command does.
func (r *Redis) Do(command string, args ...any) (any, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn == nil {
		conn, err := r.dial()
		if err != nil {
			return nil, err
		}
		r.conn = conn
	}
	reply, err := r.conn.Do(command, args...)
	if r.conn.Err() != nil {
		r.conn.Close()
		r.conn = nil
	}
	return reply, err
}

func (r *Redis) dial() (redis.Conn, error) {
	options := []redis.DialOption{
		redis.DialConnectTimeout(5 * time.Second),
		redis.DialReadTimeout(10 * time.Second),
		redis.DialWriteTimeout(10 * time.Second),
	}
	if r.o.Password != "" {
		options = append(options, redis.DialPassword(r.o.Password))
	}
	return redis.Dial("tcp", r.addr, options...)
}

// Pause stops the process with SIGSTOP: connections stay, nothing is answered.
func (r *Redis) Pause() error { return r.process.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (r *Redis) Resume() error { return r.process.signal(syscall.SIGCONT) }

// Kill ends the process with SIGKILL. Restart starts it again.
func (r *Redis) Kill() {
	r.process.kill()
	r.hangUp()
}

func (r *Redis) hangUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conn != nil {
		r.conn.Close()
		r.conn = nil
	}
}

// Restart ends the process if it still runs and starts it again at the same
// address. It is empty then, or holds what seed wrote: seed's commands run
// before anybody else can reach the server.
func (r *Redis) Restart(seed func(do func(command string, args ...any) (any, error)) error) error {
	r.Kill()
	dump := filepath.Join(r.dir, "dump.rdb")
	_ = os.Remove(dump)
	if seed != nil {
		if err := r.writeDump(dump, seed); err != nil {
			return err
		}
	}
	return r.start(r.addr)
}

// writeDump runs seed on another server and keeps the dump of its data.
func (r *Redis) writeDump(dump string, seed func(do func(command string, args ...any) (any, error)) error) error {
	other, err := StartRedis(RedisOptions{Bin: r.o.Bin})
	if err != nil {
		return err
	}
	defer other.Stop()
	if err := seed(other.Do); err != nil {
		return err
	}
	if _, err := other.Do("SAVE"); err != nil {
		return err
	}
	content, err := os.ReadFile(filepath.Join(other.dir, "dump.rdb"))
	if err != nil {
		return err
	}
	return os.WriteFile(dump, content, 0o600)
}

// Stop ends the process and removes its files.
func (r *Redis) Stop() {
	r.hangUp()
	if r.process != nil {
		r.process.stop(5 * time.Second)
	}
	_ = os.RemoveAll(r.dir)
}

// CommandStats returns how often each command was called since the start or
// the last Resetstat, by its name in lower case ("hget", "client|tracking").
func (r *Redis) CommandStats() (map[string]int, error) {
	info, err := redis.String(r.Do("INFO", "commandstats"))
	if err != nil {
		return nil, err
	}
	stats := map[string]int{}
	for line := range strings.Lines(info) {
		name, values, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "cmdstat_"), ":calls=")
		if !ok {
			continue
		}
		calls, _, _ := strings.Cut(values, ",")
		if stats[name], err = strconv.Atoi(calls); err != nil {
			return nil, errors.New("INFO commandstats: cannot read " + line)
		}
	}
	return stats, nil
}

// Resetstat sets the counts of CommandStats to zero.
func (r *Redis) Resetstat() error {
	_, err := r.Do("CONFIG", "RESETSTAT")
	return err
}
