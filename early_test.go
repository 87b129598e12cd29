package dynamicforward

import (
	"io"
	"net"
	"strings"
	"testing"

	"github.com/gomodule/redigo/redis"
)

// The same as in early.go, for the methods that only tests have: the first test that runs
// would be the first to use them, in several goroutines.
func init() {
	_ = (*busyTable)(nil).unwatch
	_ = (*deadlines)(nil).SetReadDeadline
	_ = (*deadlines)(nil).next
	_ = (*fakeCluster)(nil).equip
	_ = (*fakeCluster)(nil).keyOn
	_ = (*fakeCluster)(nil).move
	_ = (*fakeCluster)(nil).owner
	_ = (*fakeCluster)(nil).redirect
	_ = (*fakeCluster)(nil).slots
	_ = (*fakeCluster)(nil).table
	_ = (*fakeDNS)(nil).answer
	_ = (*fakeDNS)(nil).is
	_ = (*fakeDNS)(nil).serve
	_ = (*fakeRedis)(nil).accept
	_ = (*fakeRedis)(nil).answer
	_ = (*fakeRedis)(nil).auth
	_ = (*fakeRedis)(nil).await
	_ = (*fakeRedis)(nil).awaitCount
	_ = (*fakeRedis)(nil).awaitOpen
	_ = (*fakeRedis)(nil).commands
	_ = (*fakeRedis)(nil).count
	_ = (*fakeRedis)(nil).cut
	_ = (*fakeRedis)(nil).del
	_ = (*fakeRedis)(nil).delIn
	_ = (*fakeRedis)(nil).disconnect
	_ = (*fakeRedis)(nil).execute
	_ = (*fakeRedis)(nil).handle
	_ = (*fakeRedis)(nil).hang
	_ = (*fakeRedis)(nil).heal
	_ = (*fakeRedis)(nil).hset
	_ = (*fakeRedis)(nil).hsetIn
	_ = (*fakeRedis)(nil).listen
	_ = (*fakeRedis)(nil).notify
	_ = (*fakeRedis)(nil).serve
	_ = (*fakeRedis)(nil).set
	_ = (*fakeRedis)(nil).setIn
	_ = (*fakeRedis)(nil).start
	_ = (*fakeRedis)(nil).stop
	_ = (*fakeRedis)(nil).user
	_ = (*fakeRedisConn)(nil).readCommand
	_ = (*fakeRedisConn)(nil).readLen
	_ = (*fakeRedisConn)(nil).send
	_ = (*fakeSentinel)(nil).names
	_ = (*fakeSentinel)(nil).tells
	_ = (*gate)(nil).waits
	_ = (*held)(nil).Close
	_ = (*landing)(nil).changed
	_ = (*landing)(nil).landed
	_ = (*landing)(nil).turned
	_ = (*laneNode)(nil).hangUp
	_ = (*lastRead)(nil).Read
	_ = (*lines)(nil).Write
	_ = (*lines)(nil).all
	_ = (*pieces)(nil).Write
	_ = (*player)(nil).wantEcho
	_ = (*player)(nil).wantEnd
	_ = (*pushingRedis)(nil).holdHGET
	_ = (*pushingRedis)(nil).move
	_ = (*pushingRedis)(nil).ping
	_ = (*pushingRedis)(nil).push
	_ = (*recorder)(nil).Header
	_ = (*recorder)(nil).Write
	_ = (*recorder)(nil).WriteHeader
	_ = (*requests)(nil).ServeHTTP
	_ = (*requests)(nil).wantOver
	_ = (*sessionWorld)(nil).becomes
	_ = (*sessionWorld)(nil).counted
	_ = (*sessionWorld)(nil).down
	_ = (*sessionWorld)(nil).play
	_ = (*sessionWorld)(nil).settled
	_ = (*sessionWorld)(nil).tell
	_ = (*shortcuts)(nil).get
	_ = (*shortcuts)(nil).has
	_ = (*sluggish)(nil).SetReadDeadline
	_ = (*table)(nil).believes
	_ = (*table)(nil).connected
	_ = (*table)(nil).now
	_ = (*thing)(nil).close
	_ = (*watchedConn)(nil).SetReadDeadline
}

// Two goroutines may be the first to speak with Redis, at the same moment: a link and what
// listens to its Sentinels are. Run alone, by an interpreter with the race detector in it,
// this fails, all but always, when something of redigo's is first used then.
func TestTwoMayBeTheFirstToUseRedis(t *testing.T) {
	answers := strings.Join([]string{
		"+OK", "+OK", "+PONG", // introduce
		"*1", "$6", "master", // isMaster
		"$10", "run_id:abc", // runID
		":7",                                                                  // CLIENT ID
		"*3", "$7", "message", "$1", "c", "*1", "$3", "key", "*2", "+a", "+b", // readChange, twice
		"*3", ":0", ":9", "*2", "$1", "h", ":1", // readSlotRange
		"$5", "value", // HGET
		"",
	}, "\r\n")
	talk := func() error {
		near, far := net.Pipe()
		defer near.Close()
		go io.Copy(io.Discard, far)
		go io.WriteString(far, answers)
		conn := redis.NewConn(near, fakeRedisPatience, fakeRedisPatience)
		who := login{username: "user", password: "password", db: 1}
		if err := who.introduce(conn); err != nil {
			return err
		}
		if err := isMaster(conn); err != nil {
			return err
		}
		if _, err := runID(conn); err != nil {
			return err
		}
		if _, err := redis.Int64(conn.Do("CLIENT", "ID")); err != nil {
			return err
		}
		for i := 0; i < 2; i++ {
			if _, err := readChange(conn.(redis.ConnWithTimeout), fakeRedisPatience); err != nil {
				return err
			}
		}
		slots, err := redis.ReceiveWithTimeout(conn, fakeRedisPatience)
		if err != nil {
			return err
		}
		if _, err := readSlotRange(slots, ""); err != nil {
			return err
		}
		if err := conn.Send("HGET", "key", "field"); err != nil {
			return err
		}
		if err := conn.Flush(); err != nil {
			return err
		}
		if _, err := redis.String(conn.Receive()); err != nil {
			return err
		}
		if err := conn.Err(); err != nil {
			return err
		}
		err = conn.Close()
		return err
	}
	done := make(chan error, 2)
	first := func() { done <- talk() }
	go first()
	go first()
	for i := 0; i < 2; i++ {
		if err := awaitRedigo(t, done); err != nil {
			t.Error(err)
		}
	}
}
