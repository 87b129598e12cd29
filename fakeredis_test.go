package dynamicforward

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeRedisPatience bounds every wait in fakeRedis. It is only ever spent by a
// test that fails.
const fakeRedisPatience = 10 * time.Second

// fakeRedis is a Redis server inside the test process, on 127.0.0.1. It speaks
// enough of RESP2 for the plugin, and does on request what a real server does
// on a bad day: it hangs, hangs up in the middle of a reply, and goes away.
//
// Commands: AUTH, SELECT, PING, GET, SET, HGET, HSET, DEL. Everything else is
// an unknown command unless a test adds it with handle.
type fakeRedis struct {
	tb   testing.TB
	addr string // host:port; stays the same over stop and start

	running sync.WaitGroup // the accept loop and one for each connection

	mu       sync.Mutex
	changed  chan struct{} // closed, and replaced, whenever a field below changes
	listener net.Listener  // nil: stopped
	tls      *tls.Config   // nil: plain TCP
	users    map[string]string
	values   map[string]string            // by "db/key"
	hashes   map[string]map[string]string // by "db/key"
	handlers map[string]func(c *fakeRedisConn, args []string) string
	hanging  map[string]bool // by command name; "*" is every command
	cuts     map[string]int  // by command name
	counts   map[string]int  // by command name
	log      []string
	conns    map[string]*fakeRedisConn // by the client's address
}

// fakeRedisConn is one client's connection, as the server sees it.
type fakeRedisConn struct {
	conn   net.Conn
	reader *bufio.Reader
	write  sync.Mutex

	// Used by the connection's own goroutine alone.
	db      int
	authed  bool
	hanging bool
}

// newFakeRedis starts a server that stops when the test ends.
func newFakeRedis(tb testing.TB) *fakeRedis {
	return newFakeRedisTLS(tb, nil)
}

// newFakeRedisTLS is newFakeRedis behind TLS; a nil config means plain TCP.
func newFakeRedisTLS(tb testing.TB, config *tls.Config) *fakeRedis {
	tb.Helper()
	r := &fakeRedis{
		tb:       tb,
		addr:     "127.0.0.1:0",
		tls:      config,
		changed:  make(chan struct{}),
		users:    map[string]string{},
		values:   map[string]string{},
		hashes:   map[string]map[string]string{},
		handlers: map[string]func(c *fakeRedisConn, args []string) string{},
		hanging:  map[string]bool{},
		cuts:     map[string]int{},
		counts:   map[string]int{},
		conns:    map[string]*fakeRedisConn{},
	}
	r.start()
	stop := func() { r.stop() }
	tb.Cleanup(stop)
	return r
}

// givenOut has when each address was last given to a fake Redis or by refused. A new one at
// the port of one that has gone would be taken for that, whose table may still be there;
// and who counts connections there would count those of its link.
var givenOut sync.Map

// givenLately tells whether what was shared of a Redis at an address may still be there.
func givenLately(addr string) bool {
	at, given := givenOut.Load(addr)
	return given && time.Since(at.(time.Time)) < time.Minute
}

// listenAlone listens on a port that no fake Redis has had lately.
func listenAlone(tb testing.TB) net.Listener {
	tb.Helper()
	var others []net.Listener // they stay until another one is found, or would be offered again
	for {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		if givenLately(listener.Addr().String()) {
			others = append(others, listener)
			continue
		}
		for _, other := range others {
			other.Close()
		}
		return listener
	}
}

// listen listens on r.addr; if that has no port, on one that none has had lately.
func (r *fakeRedis) listen() net.Listener {
	r.tb.Helper()
	if r.addr == "127.0.0.1:0" {
		return listenAlone(r.tb)
	}
	listener, err := net.Listen("tcp", r.addr)
	if err != nil {
		r.tb.Fatalf("fake Redis: %v", err)
	}
	return listener
}

// start listens, after stop on the same address as before.
func (r *fakeRedis) start() {
	r.tb.Helper()
	listener := r.listen()
	r.mu.Lock()
	r.addr = listener.Addr().String()
	r.listener = listener
	r.mu.Unlock()
	r.running.Add(1)
	go r.accept(listener)
}

// stop refuses new connections, closes the open ones, and returns when no
// goroutine of the server is left. The data stays.
func (r *fakeRedis) stop() {
	r.mu.Lock()
	listener := r.listener
	r.listener = nil
	givenOut.Store(r.addr, time.Now())
	r.mu.Unlock()
	if listener != nil {
		listener.Close()
	}
	r.disconnect()
	r.running.Wait()
}

// disconnect closes every open connection and keeps listening.
func (r *fakeRedis) disconnect() {
	r.mu.Lock()
	for _, c := range r.conns {
		c.conn.Close()
	}
	r.mu.Unlock()
}

// user lets name in with password, and nobody without one any more. The name of
// AUTH with a password alone is "default".
func (r *fakeRedis) user(name, password string) {
	r.mu.Lock()
	r.users[name] = password
	r.mu.Unlock()
}

// set, hset and del change database 0 as the commands do.
func (r *fakeRedis) set(key, value string) {
	r.mu.Lock()
	r.setIn(0, key, value)
	r.mu.Unlock()
}

func (r *fakeRedis) hset(key, field, value string) {
	r.mu.Lock()
	r.hsetIn(0, key, field, value)
	r.mu.Unlock()
}

func (r *fakeRedis) del(key string) {
	r.mu.Lock()
	r.delIn(0, key)
	r.mu.Unlock()
}

// handle answers the command name with what f returns, which is sent as it is;
// "" sends nothing. f runs on the connection's goroutine, without a lock.
func (r *fakeRedis) handle(name string, f func(c *fakeRedisConn, args []string) string) {
	r.mu.Lock()
	r.handlers[name] = f
	r.mu.Unlock()
}

// hang leaves the command name ("*": every command), and everything after it on
// the same connection, without an answer.
func (r *fakeRedis) hang(name string) {
	r.mu.Lock()
	r.hanging[name] = true
	r.mu.Unlock()
}

// cut ends the connection after the first n bytes of the reply to the command
// name.
func (r *fakeRedis) cut(name string, n int) {
	r.mu.Lock()
	r.cuts[name] = n
	r.mu.Unlock()
}

// heal undoes hang and cut. A connection that already hangs stays so.
func (r *fakeRedis) heal() {
	r.mu.Lock()
	r.hanging = map[string]bool{}
	r.cuts = map[string]int{}
	r.mu.Unlock()
}

// count says how many times the command name has arrived.
func (r *fakeRedis) count(name string) int {
	r.mu.Lock()
	n := r.counts[name]
	r.mu.Unlock()
	return n
}

// commands lists what has arrived, each with its arguments, in order.
func (r *fakeRedis) commands() []string {
	r.mu.Lock()
	log := append([]string{}, r.log...)
	r.mu.Unlock()
	return log
}

// awaitCount returns once the command name has arrived n times in all.
func (r *fakeRedis) awaitCount(name string, n int) {
	r.tb.Helper()
	r.await(strconv.Itoa(n)+" "+name, func() bool { return r.counts[name] >= n })
}

// awaitOpen returns once n connections are open.
func (r *fakeRedis) awaitOpen(n int) {
	r.tb.Helper()
	r.await(strconv.Itoa(n)+" connections", func() bool { return len(r.conns) == n })
}

// await returns once the condition, which runs with the lock held, is true.
func (r *fakeRedis) await(what string, condition func() bool) {
	r.tb.Helper()
	patience := time.NewTimer(fakeRedisPatience)
	defer patience.Stop()
	for {
		r.mu.Lock()
		ok := condition()
		changed := r.changed
		r.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-patience.C:
			r.tb.Fatalf("fake Redis: waited in vain for %s", what)
		}
	}
}

// notify wakes await. The lock is held.
func (r *fakeRedis) notify() {
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *fakeRedis) accept(listener net.Listener) {
	defer r.running.Done()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		if r.listener != listener {
			// Stopped between Accept and here: nobody else would close it.
			r.mu.Unlock()
			conn.Close()
			return
		}
		c := &fakeRedisConn{conn: conn}
		if r.tls != nil {
			c.conn = tls.Server(conn, r.tls)
		}
		c.reader = bufio.NewReader(c.conn)
		r.conns[conn.RemoteAddr().String()] = c
		r.notify()
		r.mu.Unlock()
		r.running.Add(1)
		go r.serve(c)
	}
}

func (r *fakeRedis) serve(c *fakeRedisConn) {
	defer r.running.Done()
	for {
		args, err := c.readCommand()
		if err != nil {
			break
		}
		reply, keep := r.answer(c, args)
		if err := c.send(reply); err != nil || !keep {
			break
		}
	}
	c.conn.Close()
	r.mu.Lock()
	delete(r.conns, c.conn.RemoteAddr().String())
	r.notify()
	r.mu.Unlock()
}

// answer makes the reply, and says whether the connection stays open after it.
func (r *fakeRedis) answer(c *fakeRedisConn, args []string) (string, bool) {
	name := strings.ToUpper(args[0])

	r.mu.Lock()
	r.counts[name]++
	r.log = append(r.log, strings.Join(args, " "))
	handler := r.handlers[name]
	c.hanging = c.hanging || r.hanging[name] || r.hanging["*"]
	cut, cutting := r.cuts[name]
	r.notify()
	r.mu.Unlock()

	if c.hanging {
		return "", true
	}
	var reply string
	if handler != nil {
		reply = handler(c, args)
	} else {
		r.mu.Lock()
		reply = r.execute(c, name, args[1:])
		r.mu.Unlock()
	}
	if cutting && cut < len(reply) {
		return reply[:cut], false
	}
	return reply, !cutting
}

// execute runs one of the built-in commands. The lock is held.
func (r *fakeRedis) execute(c *fakeRedisConn, name string, args []string) string {
	arity := map[string]int{"SELECT": 1, "GET": 1, "SET": 2, "HGET": 2, "HSET": 3, "DEL": 1}
	n, known := arity[name]
	switch {
	case name == "AUTH":
		return r.auth(c, args)
	case len(r.users) > 0 && !c.authed:
		return "-NOAUTH Authentication required.\r\n"
	case name == "PING" && len(args) == 1:
		return respBulk(args[0])
	case name == "PING":
		return "+PONG\r\n"
	case !known:
		return "-ERR unknown command '" + name + "'\r\n"
	case len(args) != n:
		return "-ERR wrong number of arguments for '" + strings.ToLower(name) + "' command\r\n"
	}

	id := ""
	if name != "SELECT" {
		id = strconv.Itoa(c.db) + "/" + args[0]
	}
	value, isString := r.values[id]
	hash, isHash := r.hashes[id]
	switch name {
	case "SELECT":
		db, err := strconv.Atoi(args[0])
		if err != nil || db < 0 || db > 15 {
			return "-ERR DB index is out of range\r\n"
		}
		c.db = db
		return "+OK\r\n"
	case "SET":
		r.setIn(c.db, args[0], args[1])
		return "+OK\r\n"
	case "DEL":
		return ":" + strconv.Itoa(r.delIn(c.db, args[0])) + "\r\n"
	case "GET":
		if isHash {
			return respWrongType
		}
		if !isString {
			return respNil
		}
		return respBulk(value)
	case "HGET":
		if isString {
			return respWrongType
		}
		value, ok := hash[args[1]]
		if !ok {
			return respNil
		}
		return respBulk(value)
	default: // HSET
		if isString {
			return respWrongType
		}
		return ":" + strconv.Itoa(r.hsetIn(c.db, args[0], args[1], args[2])) + "\r\n"
	}
}

func (r *fakeRedis) auth(c *fakeRedisConn, args []string) string {
	if len(args) == 1 {
		args = []string{"default", args[0]}
	}
	if len(args) != 2 {
		return "-ERR wrong number of arguments for 'auth' command\r\n"
	}
	password, ok := r.users[args[0]]
	if !ok || password != args[1] {
		return "-WRONGPASS invalid username-password pair or user is disabled.\r\n"
	}
	c.authed = true
	return "+OK\r\n"
}

func (r *fakeRedis) setIn(db int, key, value string) {
	id := strconv.Itoa(db) + "/" + key
	delete(r.hashes, id)
	r.values[id] = value
}

func (r *fakeRedis) hsetIn(db int, key, field, value string) int {
	id := strconv.Itoa(db) + "/" + key
	hash := r.hashes[id]
	if hash == nil {
		hash = map[string]string{}
		r.hashes[id] = hash
	}
	_, old := hash[field]
	hash[field] = value
	if old {
		return 0
	}
	return 1
}

func (r *fakeRedis) delIn(db int, key string) int {
	id := strconv.Itoa(db) + "/" + key
	_, isString := r.values[id]
	_, isHash := r.hashes[id]
	delete(r.values, id)
	delete(r.hashes, id)
	if isString || isHash {
		return 1
	}
	return 0
}

const (
	respNil       = "$-1\r\n"
	respWrongType = "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
)

func respBulk(s string) string {
	return "$" + strconv.Itoa(len(s)) + "\r\n" + s + "\r\n"
}

// respArray joins replies to one array reply.
func respArray(replies ...string) string {
	return "*" + strconv.Itoa(len(replies)) + "\r\n" + strings.Join(replies, "")
}

// send writes a reply, or a push, as it is.
func (c *fakeRedisConn) send(reply string) error {
	c.write.Lock()
	_, err := io.WriteString(c.conn, reply)
	c.write.Unlock()
	return err
}

func (c *fakeRedisConn) readCommand() ([]string, error) {
	n, err := c.readLen('*')
	if err != nil {
		return nil, err
	}
	if n < 1 {
		return nil, errors.New("empty command")
	}
	args := make([]string, n)
	for i := range args {
		size, err := c.readLen('$')
		if err != nil {
			return nil, err
		}
		arg := make([]byte, size+2)
		if _, err := io.ReadFull(c.reader, arg); err != nil {
			return nil, err
		}
		args[i] = string(arg[:size])
	}
	return args, nil
}

func (c *fakeRedisConn) readLen(prefix byte) (int, error) {
	line, err := c.reader.ReadString('\n')
	if err != nil {
		return 0, err
	}
	if line[0] != prefix {
		return 0, errors.New("not RESP: " + line)
	}
	n, err := strconv.Atoi(strings.TrimSpace(line[1:]))
	if err == nil && n < 0 {
		err = errors.New("negative length")
	}
	return n, err
}
