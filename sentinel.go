package dynamicforward

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
)

// switchMaster is the channel on which a Sentinel tells that a master has been
// replaced (https://redis.io/docs/latest/develop/reference/sentinel-clients/).
const switchMaster = "+switch-master"

// sentinels are who knows where the master is, and tells when it is another one.
type sentinels struct {
	settings *redisSettings

	mu    sync.Mutex
	order []string // their endpoints; the first is asked first
}

func newSentinels(settings *redisSettings) *sentinels {
	return &sentinels{settings: settings, order: append([]string{}, settings.endpoints...)}
}

// inTurn returns the endpoints in the order in which to ask.
func (w *sentinels) inTurn() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string{}, w.order...)
}

// first makes an endpoint the first one to ask.
func (w *sentinels) first(endpoint string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.order = append([]string{endpoint}, w.without(endpoint)...)
}

// last makes an endpoint the last one to ask: it does not answer, or the master that it
// has named is none, and a Sentinel that is cut off from the others would name it for ever.
func (w *sentinels) last(endpoint string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.order = append(w.without(endpoint), endpoint)
}

// without returns the others in their order. The lock is held.
func (w *sentinels) without(endpoint string) []string {
	var others []string
	for _, other := range w.order {
		if other != endpoint {
			others = append(others, other)
		}
	}
	return others
}

// dial connects to a Sentinel.
func (w *sentinels) dial(endpoint string) (redis.Conn, error) {
	conn, err := w.settings.dialAs(endpoint, &login{
		username: w.settings.sentinel.Username, password: w.settings.sentinel.Password,
	})
	return conn, err
}

// master asks one Sentinel after the other for the address of the master, until
// one knows, and returns who that was, too.
func (w *sentinels) master() (master, by string, err error) {
	var faults []string
	for _, endpoint := range w.inTurn() {
		master, err := w.ask(endpoint)
		if err == nil {
			return master, endpoint, nil
		}
		faults = append(faults, fmt.Sprintf("Sentinel %s: %s", endpoint, sentinelWording(err)))
		w.last(endpoint)
	}
	return "", "", errors.New(strings.Join(faults, "; "))
}

// ask asks a single Sentinel.
func (w *sentinels) ask(endpoint string) (string, error) {
	conn, err := w.dial(endpoint)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	name := w.settings.sentinel.MasterName
	address, err := redis.Strings(conn.Do("SENTINEL", "get-master-addr-by-name", name))
	if errors.Is(err, redis.ErrNil) {
		return "", fmt.Errorf("knows no master %q: look at redis.sentinel.masterName", name)
	}
	if err != nil {
		return "", err
	}
	if len(address) != 2 {
		return "", fmt.Errorf("gave an address of %d parts", len(address))
	}
	return net.JoinHostPort(address[0], address[1]), nil
}

// isMaster returns an error unless the server is a master: what the Sentinels
// say may be old.
func isMaster(conn redis.Conn) error {
	role, err := redis.Values(conn.Do("ROLE"))
	if err != nil {
		return err
	}
	if len(role) == 0 {
		return errors.New("ROLE says nothing")
	}
	kind, err := redis.String(role[0], nil)
	if err != nil {
		return err
	}
	if kind != "master" {
		return fmt.Errorf("the server that the Sentinels named is a %s: waiting for a master", kind)
	}
	return nil
}

// watch listens to one Sentinel or another for as long as the link is open, and
// makes the link connect again when the master is another one.
func (w *sentinels) watch(k *link) {
	defer recovered("listening to the Sentinels")
	told := map[string]string{} // what each has failed with since one was heard
	for turn := 0; ; turn++ {
		endpoint := w.settings.endpoints[turn%len(w.settings.endpoints)]
		heard, err := w.listen(endpoint, k)
		if k.ctx.Err() != nil {
			return
		}
		if heard {
			told = map[string]string{}
		}
		if text := sentinelWording(err); text != told[endpoint] {
			told[endpoint] = text
			log.Printf("dynamicforward redis Sentinel %s: %s", endpoint, text)
		}
		choose(time.After(maxRetry-jitter(maxRetry)), k.ctx.Done())
	}
}

// listen listens to a Sentinel until the connection breaks, and returns why it
// did. heard: it had been made.
func (w *sentinels) listen(endpoint string, k *link) (heard bool, err error) {
	conn, err := w.dial(endpoint)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	if _, err := conn.Do("SUBSCRIBE", switchMaster); err != nil {
		return false, err
	}
	ctx, over := context.WithCancel(k.ctx)
	defer over()
	go w.keep(ctx, conn)
	for messages := 0; ; messages++ {
		if messages%compareEvery == 0 {
			w.compare(k)
		}
		message, err := redis.Values(redis.ReceiveWithTimeout(conn, pingEvery+w.settings.readTimeout))
		if err != nil {
			return true, err
		}
		if len(message) != 3 {
			continue // the answer to a PING has two parts
		}
		news, err := redis.String(message[2], nil)
		if err != nil {
			return true, err
		}
		// name, old host, old port, new host, new port
		words := strings.Fields(news)
		if len(words) == 5 && words[0] == w.settings.sentinel.MasterName {
			w.first(endpoint) // others may not have heard yet
			k.renew(fmt.Errorf("the Sentinels have made %s the master", net.JoinHostPort(words[3], words[4])))
		}
	}
}

// compareEvery is after how many messages, mostly answers to PING, it is looked
// whether one was missed.
const compareEvery = 10

// compare looks whether the link is where the Sentinels say that the master is:
// what happens before we listen nobody tells.
func (w *sentinels) compare(k *link) {
	s := k.session(0)
	if s == nil {
		return
	}
	master, _, err := w.master()
	if err == nil && master != s.endpoint {
		k.renew(fmt.Errorf("the Sentinels name %s as the master", master))
	}
}

// keep sends PINGs, so that a Sentinel that went silent is noticed, until the
// listener is done, and ends the listener when the link is closed.
func (w *sentinels) keep(ctx context.Context, conn redis.Conn) {
	defer conn.Close() // so that the listener ends, whatever happens here
	defer recovered("keeping the connection to a Sentinel")
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	for {
		choose(ticker.C, ctx.Done())
		if ctx.Err() != nil {
			return
		}
		err := conn.Send("PING")
		if err == nil {
			err = conn.Flush()
		}
		if err != nil {
			return
		}
	}
}
