package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/lifesix/dynamicforward/e2e/stack"
)

// underSentinels makes a world whose Redis is what three Sentinels name. The
// plugin is a user of its own on all of them, who may do no more than needed.
func underSentinels(t *testing.T, link stack.Options) (*world, *stack.Sentinels) {
	t.Helper()
	s, err := stack.StartSentinels("game")
	must(t, err)
	t.Cleanup(s.Stop)
	for _, r := range []*stack.Redis{s.Master, s.Replica} {
		addUser(t, r, gatewayRule, masterRule)
	}
	for _, one := range s.All {
		addUser(t, one, sentinelRule)
	}
	options := user(stack.Options{
		"endpoints": s.Addrs(),
		"sentinel":  stack.Options{"masterName": "game", "username": "gateway", "password": gatewayPassword},
	})
	for name, value := range link {
		options[name] = value
	}
	return onto(t, s.Master, options), s
}

// failedOver waits until the replica is the master, makes it the world's Redis,
// and waits until a route that was not known before is served from it.
func (w *world) failedOver(s *stack.Sentinels) {
	w.t.Helper()
	eventually(w.t, "the Sentinels make the replica the master", func() bool {
		now, ok := s.Current()
		return ok && now == s.Replica
	})
	since := time.Now()
	w.redis = s.Replica
	fresh := nobody()
	w.put(fresh, w.b)
	eventually(w.t, "a route on the new master is served", func() bool { return w.ask(fresh) == "b" })
	took := time.Since(since)
	w.t.Logf("the first route on the new master was served after %v", took)
	if took > 2*time.Second {
		w.t.Errorf("a route on the new master took %v; want 2s at the most", took)
	}
}

// The master dies under load: known routes never fail, and the new master
// serves and pushes.
func TestSentinelFailover(t *testing.T) {
	w, s := underSentinels(t, nil)
	w.pushed()
	names := w.warm(20)
	moved := w.warm(1)[0]
	waitForReplica(t, s.Master)
	requests := w.underLoad(4, w.asking(names, "a"), func() {
		s.Master.Kill()
		w.failedOver(s)
		w.put(moved, w.b)
		w.becomes(moved, "b")
		w.put(moved, w.a)
		w.becomes(moved, "a")
	})
	t.Logf("%d requests", requests)
}

// A master that has only gone silent would be noticed after a read timeout of a
// minute; the Sentinels tell at once. It works with the first Sentinel gone, too,
// and while the old master, back again, still takes itself for one.
func TestSentinelsTellOfASwitch(t *testing.T) {
	w, s := underSentinels(t, stack.Options{"readTimeout": "60s"})
	w.pushed()
	names := w.warm(5)
	waitForReplica(t, s.Master)
	dead := s.All[0]
	t.Cleanup(dead.Stop)
	dead.Kill()
	s.All = s.All[1:]
	eventually(t, "the plugin listens to another Sentinel", func() bool {
		for _, one := range s.All {
			list, err := one.Do("CLIENT", "LIST", "TYPE", "PUBSUB")
			must(t, err)
			if hasLine(string(list.([]byte)), "user=gateway") {
				return true
			}
		}
		return false
	})
	w.underLoad(2, w.asking(names, "a"), func() {
		must(t, s.Master.Pause())
		w.failedOver(s)
		must(t, s.Master.Resume())
		w.pushed2()
	})
}

// waitForReplica waits until a replica has all that a master has.
func waitForReplica(t *testing.T, master *stack.Redis) {
	t.Helper()
	eventually(t, "a replica has everything", func() bool { return do(t, master, "WAIT", 1, 1000) != int64(0) })
}

// pushed2 is pushed where the log has something to say.
func (w *world) pushed2() {
	w.t.Helper()
	name := w.warm(1)[0]
	w.put(name, w.b)
	w.becomes(name, "b")
}

// A failover that somebody asked for.
func TestSentinelFailoverByHand(t *testing.T) {
	w, s := underSentinels(t, nil)
	w.pushed()
	names := w.warm(20)
	waitForReplica(t, s.Master)
	w.underLoad(4, w.asking(names, "a"), func() {
		_, err := s.All[0].Do("SENTINEL", "FAILOVER", "game")
		must(t, err)
		w.failedOver(s)
		w.pushed2()
	})
}

// What is wrong is logged with the option to look at.
func TestSentinelTroubleIsExplained(t *testing.T) {
	s, err := stack.StartSentinels("game")
	must(t, err)
	t.Cleanup(s.Stop)
	// Users who may do all that is needed but one thing.
	lacking := map[string][]string{"noask": {"+ping", "+subscribe"}, "nolisten": {"+ping", "+sentinel|get-master-addr-by-name"}}
	for name, rule := range lacking {
		_, err := s.All[0].Do("ACL", "SETUSER", name, "on", ">s3cret", "&+switch-master", rule[0], rule[1])
		must(t, err)
	}
	addUser(t, s.Master, gatewayRule) // without +role
	as := func(name string) stack.Options {
		return stack.Options{"masterName": "game", "username": name, "password": "s3cret"}
	}
	for _, c := range []struct {
		endpoint string
		sentinel stack.Options
		log      []string
	}{
		{s.All[0].Addr(), as("noask"), []string{"NOPERM", "sentinel|get-master-addr-by-name", "look at the ACL rules of redis.sentinel.username"}},
		{s.All[0].Addr(), as("nolisten"), []string{"NOPERM", "'subscribe'", "look at the ACL rules of redis.sentinel.username"}},
		{s.All[0].Addr(), stack.Options{"masterName": "other"}, []string{`knows no master "other"`, "redis.sentinel.masterName"}},
		{s.Master.Addr(), stack.Options{"masterName": "game"}, []string{"the server is no Sentinel", "redis.endpoints"}},
		{s.All[1].Addr(), stack.Options{"masterName": "game", "username": "nobody", "password": "s3cret"}, []string{"WRONGPASS", "redis.sentinel.username and redis.sentinel.password"}},
	} {
		w := onto(t, s.Master, user(stack.Options{"endpoints": []string{c.endpoint}, "sentinel": c.sentinel}))
		w.want(nobody(), redisDown) // if for nothing else, then for want of +role
		eventually(t, fmt.Sprint("the log says ", c.log), func() bool {
			return hasLine(w.traefik.Log(), append([]string{"dynamicforward redis", "Sentinel " + c.endpoint}, c.log...)...)
		})
		if hasLine(w.traefik.Log(), "s3cret") {
			t.Error("the log tells a password")
		}
	}
	w := onto(t, s.Master, user(stack.Options{"endpoints": s.Addrs(), "sentinel": stack.Options{"masterName": "game"}}))
	eventually(t, "the log tells that +role is missing", func() bool {
		return hasLine(w.traefik.Log(), "dynamicforward redis "+s.Master.Addr(), "NOPERM", "'role'", "look at the ACL rules of redis.username")
	})
}
