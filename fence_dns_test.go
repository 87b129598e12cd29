package dynamicforward

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// dnsAddress is where the DNS server of the test that has one listens, "" for
// none. The resolver that looks there is in place before anything runs: to put it
// there later would be a race with whatever dials at that moment.
var dnsAddress atomic.Value

func init() {
	dnsAddress.Store("")
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if at := dnsAddress.Load().(string); at != "" {
			network = "udp"
			address = at
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		return conn, err
	}
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: dial}
}

// fakeDNS is a DNS server on 127.0.0.1 that knows the names that a test gives it,
// and forgets what they were at the next question.
type fakeDNS struct {
	mu    sync.Mutex
	names map[string][]netip.Addr // by "game.test."
}

// newFakeDNS starts a server that all look-ups of the process go to until the
// test ends.
func newFakeDNS(t *testing.T) *fakeDNS {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &fakeDNS{names: map[string][]netip.Addr{}}
	dnsAddress.Store(conn.LocalAddr().String())
	end := func() {
		dnsAddress.Store("")
		conn.Close()
	}
	t.Cleanup(end)
	go d.serve(conn)
	return d
}

// is makes a name resolve to these addresses.
func (d *fakeDNS) is(name string, addresses ...string) {
	var list []netip.Addr
	for _, a := range addresses {
		list = append(list, netip.MustParseAddr(a))
	}
	d.mu.Lock()
	d.names[name+"."] = list
	d.mu.Unlock()
}

func (d *fakeDNS) serve(conn net.PacketConn) {
	question := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(question)
		if err != nil {
			return
		}
		_, _ = conn.WriteTo(d.answer(question[:n]), from)
	}
}

// The types of DNS records that are asked for.
const (
	dnsA    = 1
	dnsAAAA = 28
)

// answer makes the answer to a message with one question (RFC 1035, 4).
func (d *fakeDNS) answer(message []byte) []byte {
	name := ""
	at := 12
	for message[at] != 0 {
		end := at + 1 + int(message[at])
		name += strings.ToLower(string(message[at+1:end])) + "."
		at = end
	}
	kind := int(message[at+1])<<8 | int(message[at+2])
	question := message[12 : at+5]

	d.mu.Lock()
	addresses, known := d.names[name]
	d.mu.Unlock()
	var records []byte
	count := byte(0)
	for _, a := range addresses {
		if a.Is4() && kind == dnsA || !a.Is4() && kind == dnsAAAA {
			data := a.AsSlice()
			// The name of the question, the type, class IN, no time to live.
			records = append(records, 0xc0, 12, 0, byte(kind), 0, 1, 0, 0, 0, 0, 0, byte(len(data)))
			records = append(records, data...)
			count++
		}
	}
	code := byte(0)
	if !known {
		code = 3 // no such name
	}
	answer := []byte{message[0], message[1], 0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0}
	answer = append(answer, question...)
	return append(answer, records...)
}

// closingNode is a node that answers "reached" and closes each connection, so that
// every request is a dial. It returns its port.
func closingNode(t *testing.T) string {
	t.Helper()
	reached := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		_, _ = io.WriteString(w, "reached\n")
	}
	node := httptest.NewServer(http.HandlerFunc(reached))
	t.Cleanup(node.Close)
	_, port, _ := net.SplitHostPort(node.Listener.Addr().String())
	return port
}

// askBothWays sends a plain request and a handshake, and returns what comes back,
// or both if they differ.
func askBothWays(t *testing.T, gateway, path string) string {
	t.Helper()
	var got []string
	for _, text := range []string{"GET " + path + " HTTP/1.1\r\nHost: game.example.com\r\n\r\n", handshakeText(path)} {
		conn, reader := rawClient(t, gateway, text)
		got = append(got, readAnswer(t, reader))
		conn.Close()
	}
	if got[0] != got[1] {
		return fmt.Sprintf("%s for a request, %s for a handshake", got[0], got[1])
	}
	return got[0]
}

func readAnswer(t *testing.T, reader *bufio.Reader) string {
	t.Helper()
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(response.StatusCode, " ", strings.TrimSpace(string(body)))
}

// What askBothWays returns.
const (
	reached   = "200 reached"
	forbidden = "502 bad-target: the node's entry in Redis cannot be used"
	isDown    = "502 node-down: the node cannot be reached"
)

func TestANameIsCheckedByWhatItResolvesTo(t *testing.T) {
	dns := newFakeDNS(t)
	redis := newPushingRedis(t)
	port := closingNode(t)
	for i, c := range []struct {
		allow     string // NAME and PORT are the node's
		addresses string // nothing: there is no such name
		want      string
	}{
		{"", "127.0.0.1", reached},
		{"", "::ffff:127.0.0.1", reached},
		{"", "", isDown},

		{"", "169.254.169.254", forbidden},
		{"", "::ffff:169.254.169.254", forbidden},
		{"", "64:ff9b::a9fe:a9fe", forbidden},
		{"", "100.100.100.200", forbidden},
		{"", "fd00:ec2::254", forbidden},
		{"", "169.254.0.1", forbidden},
		{"", "fe80::1", forbidden},
		{"", "0.0.0.0", forbidden}, // which would be this machine, where the node is
		{"", "::", forbidden},
		{"", "::ffff:0.0.0.0", forbidden},
		{"", "64:ff9b::", forbidden},
		{"", "224.0.0.1", forbidden},
		{"", "255.255.255.255", forbidden},

		// A name with several addresses: the first good one that can be reached.
		{"", "169.254.169.254 127.0.0.1", reached},
		{"", "127.0.0.1 169.254.169.254", reached},
		{"", "0.0.0.0 ::ffff:169.254.169.254 127.0.0.1", reached},
		{"", "::1 127.0.0.1", reached}, // nobody listens at the first
		{"127.0.0.0/8", "10.0.0.1 127.0.0.1", reached},
		{"127.0.0.0/8", "::1 127.0.0.1", reached}, // the resolver puts ::1 first
		{"", "169.254.169.254 0.0.0.0", forbidden},

		{"127.0.0.0/8", "127.0.0.1", reached},
		{"127.0.0.0/8", "::ffff:127.0.0.1", reached},
		{"127.0.0.1:PORT", "127.0.0.1", reached},
		{"127.0.0.1:1", "127.0.0.1", forbidden},
		{"10.0.0.0/8", "127.0.0.1", forbidden},
		{"10.0.0.0/8", "::ffff:127.0.0.1", forbidden},
		{"169.254.0.0/16 0.0.0.0/0 ::/0", "169.254.169.254", forbidden},
		{"0.0.0.0/0 ::/0", "0.0.0.0", forbidden},

		// A name that is in targets.allow itself.
		{"NAME", "127.0.0.1", reached},
		{"NAME:PORT", "127.0.0.1", reached},
		{"NAME:1", "127.0.0.1", forbidden},
		{"other.test 10.0.0.0/8", "127.0.0.1", forbidden},
		{"test", "127.0.0.1", forbidden},
		{"NAME", "169.254.169.254", forbidden},
		{"NAME", "::ffff:169.254.169.254", forbidden},
		{"NAME", "0.0.0.0", forbidden},
		{"NAME", "fd00:ec2::254", forbidden},
		{"NAME 169.254.169.254", "169.254.169.254", forbidden},
		{"NAME", "169.254.169.254 127.0.0.1", reached},
	} {
		name := fmt.Sprintf("node%d.test", i)
		if c.addresses != "" {
			dns.is(name, strings.Fields(c.addresses)...)
		}
		redis.hset("game-server_dev_node_"+name, "1", name+":"+port)
		config := testConfig(redis.addr)
		config.Targets.Allow = strings.Fields(strings.ReplaceAll(strings.ReplaceAll(c.allow, "NAME", name), "PORT", port))
		got := askBothWays(t, testGateway(t, config), "/ws?threadId=1&platform=dev&nodeName="+name)
		if got != c.want {
			t.Errorf("allow %q: a name that is %q: got %s, want %s", c.allow, c.addresses, got, c.want)
		}
	}
}

func TestANameIsCheckedAtEveryDial(t *testing.T) {
	dns := newFakeDNS(t)
	redis := newPushingRedis(t)
	redis.hset("game-server_dev_node_wgamed", "1", "changes.test:"+closingNode(t))
	open := testGateway(t, testConfig(redis.addr))
	config := testConfig(redis.addr)
	config.Targets.Allow = []string{"127.0.0.0/8"}
	listed := testGateway(t, config)
	for _, c := range []struct {
		address string
		open    string
		listed  string
	}{
		{"127.0.0.1", reached, reached},
		{"169.254.169.254", forbidden, forbidden},
		{"127.0.0.1", reached, reached},
		{"0.0.0.0", forbidden, forbidden},
		{"::ffff:169.254.169.254", forbidden, forbidden},
		{"::ffff:127.0.0.1", reached, reached},
		{"::1", isDown, forbidden},
		{"127.0.0.1", reached, reached},
	} {
		dns.is("changes.test", c.address)
		if got := askBothWays(t, open, wgamed); got != c.open {
			t.Errorf("%s: got %s, want %s", c.address, got, c.open)
		}
		if got := askBothWays(t, listed, wgamed); got != c.listed {
			t.Errorf("%s, with targets.allow: got %s, want %s", c.address, got, c.listed)
		}
	}
}

// A connection that was made while the name was a good one may serve until it is
// closed; the next one is checked again.
func TestANameIsCheckedWhenItsConnectionHasEnded(t *testing.T) {
	dns := newFakeDNS(t)
	redis := newPushingRedis(t)
	say := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "reached\n") }
	node := httptest.NewServer(http.HandlerFunc(say))
	defer node.Close()
	_, port, _ := net.SplitHostPort(node.Listener.Addr().String())
	redis.hset("game-server_dev_node_wgamed", "1", "kept.test:"+port)
	gateway := testGateway(t, testConfig(redis.addr))

	dns.is("kept.test", "127.0.0.1")
	if response, body := get(t, gateway+wgamed); response.StatusCode != 200 {
		t.Fatalf("got %s %q", response.Status, body)
	}
	dns.is("kept.test", "169.254.169.254")
	node.CloseClientConnections()
	if response, body := get(t, gateway+wgamed); response.StatusCode != 502 || !strings.HasPrefix(body, "bad-target") {
		t.Errorf("got %s %q", response.Status, body)
	}
}

// An address that does not answer leaves time for the next.
func TestTheAddressesOfANameShareTheTime(t *testing.T) {
	dns := newFakeDNS(t)
	dns.is("node.test", "127.0.0.3", "127.0.0.2", "127.0.0.1")
	port := closingNode(t)
	dialer := &net.Dialer{Timeout: time.Second}
	var mu sync.Mutex
	silent := map[string]bool{}
	// What dials waits here, before it connects, as for an answer. Yaegi: the
	// function's type names a package that is not there.
	wait := func(args []reflect.Value) []reflect.Value {
		address := args[2].String()
		if address != "127.0.0.1:"+port {
			mu.Lock()
			silent[address] = true
			mu.Unlock()
			<-args[0].Interface().(context.Context).Done()
		}
		return []reflect.Value{reflect.Zero(reflect.TypeOf((*error)(nil)).Elem())}
	}
	field := reflect.ValueOf(dialer).Elem().FieldByName("ControlContext")
	field.Set(reflect.MakeFunc(field.Type(), wait))
	f, err := newFence(&TargetsConfig{}, dialer)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dial(context.Background(), f.gate("node.test:"+port))
	if err != nil {
		t.Fatalf("after %v: %v", silent, err)
	}
	conn.Close()
	mu.Lock()
	defer mu.Unlock()
	if len(silent) != 2 {
		t.Errorf("the silent ones were %v", silent)
	}
}
