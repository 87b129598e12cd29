package stack

import (
	"strings"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
)

func startedRedis(t *testing.T, o RedisOptions) *Redis {
	t.Helper()
	r, err := StartRedis(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	return r
}

func TestRedisRestartsWithOtherData(t *testing.T) {
	r := startedRedis(t, RedisOptions{Password: "secret"})
	if _, err := r.Do("SET", "old", 1); err != nil {
		t.Fatal(err)
	}
	addr := r.Addr()
	err := r.Restart(func(do func(string, ...any) (any, error)) error {
		_, err := do("SET", "new", 2)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := redis.Strings(r.Do("KEYS", "*"))
	if err != nil || strings.Join(keys, " ") != "new" || r.Addr() != addr {
		t.Errorf("after a restart %s has the keys %q, %v", r.Addr(), keys, err)
	}
	if err := r.Restart(nil); err != nil {
		t.Fatal(err)
	}
	if keys, err := redis.Strings(r.Do("KEYS", "*")); err != nil || len(keys) != 0 {
		t.Errorf("after a restart without data it has the keys %q, %v", keys, err)
	}
}

func TestRedisCountsCommands(t *testing.T) {
	r := startedRedis(t, RedisOptions{UnixSocket: true})
	if err := r.Resetstat(); err != nil {
		t.Fatal(err)
	}
	conn, err := redis.Dial("unix", r.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 3 {
		if _, err := conn.Do("HGET", "a", "b"); err != nil {
			t.Fatal(err)
		}
	}
	stats, err := r.CommandStats()
	if err != nil || stats["hget"] != 3 || stats["hset"] != 0 {
		t.Errorf("three HGET are counted as %v, %v", stats, err)
	}
}

func TestRedisPauses(t *testing.T) {
	r := startedRedis(t, RedisOptions{})
	if err := r.Pause(); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() { _, err := r.Do("PING"); answered <- err }()
	if waitFor(200*time.Millisecond, nil, func() bool { return len(answered) > 0 }) {
		t.Error("a paused Redis answers")
	}
	if err := r.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

func TestRedisIsMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := StartRedis(RedisOptions{}); err == nil || !strings.Contains(err.Error(), "apt-get install redis-server") {
		t.Errorf("the error is %v", err)
	}
}
