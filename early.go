package dynamicforward

import (
	"net"

	"github.com/gomodule/redigo/redis"
)

// Yaegi works out the type of a method when the method is first used, and keeps it
// without a lock: an interpreter built with the race detector says so. Two goroutines that
// are the first to use it, at the same moment, may see half of what the other one writes,
// and panic; a request is answered 500 then. One such answer in some 300 starts under load
// is most likely that. So every method of ours is used here, when the package is loaded
// and nothing else runs.
func init() {
	_ = (*answered)(nil).RoundTrip
	_ = (*attempt)(nil).again
	_ = (*attempt)(nil).asReceived
	_ = (*attempt)(nil).callService
	_ = (*attempt)(nil).debug
	_ = (*attempt)(nil).mark
	_ = (*attempt)(nil).reader
	_ = (*attempt)(nil).refuse
	_ = (*attempt)(nil).routeOf
	_ = (*attempt)(nil).try
	_ = bufferPool{}.Get
	_ = bufferPool{}.Put
	_ = (*clientBody)(nil).Close
	_ = (*clientBody)(nil).Read
	_ = (*cluster)(nil).ask
	_ = (*cluster)(nil).changed
	_ = (*cluster)(nil).close
	_ = (*cluster)(nil).follow
	_ = (*cluster)(nil).holder
	_ = (*cluster)(nil).join
	_ = (*cluster)(nil).landed
	_ = (*cluster)(nil).learn
	_ = (*cluster)(nil).nodes
	_ = (*cluster)(nil).refresh
	_ = (*cluster)(nil).refuse
	_ = (*cluster)(nil).run
	_ = (*cluster)(nil).session
	_ = (*cluster)(nil).start
	_ = (*cluster)(nil).turned
	_ = (*cluster)(nil).want
	_ = (*cluster)(nil).whole
	_ = (*declined)(nil).Read
	_ = (*fence)(nil).admit
	_ = (*fence)(nil).allows
	_ = (*fence)(nil).dialFirst
	_ = (*fence)(nil).dialName
	_ = (*fence)(nil).dialWithin
	_ = (*fence)(nil).gate
	_ = (*fence)(nil).permits
	_ = (*forwarder)(nil).close
	_ = (*gate)(nil).dialInTurn
	_ = (*gate)(nil).enter
	_ = (*gate)(nil).leave
	_ = (*gate)(nil).setSilent
	_ = (*laneBody)(nil).Close
	_ = (*laneBody)(nil).Read
	_ = (*lanes)(nil).all
	_ = (*lanes)(nil).tick
	_ = (*leftovers)(nil).look
	_ = (*link)(nil).accept
	_ = (*link)(nil).ask
	_ = (*link)(nil).close
	_ = (*link)(nil).connect
	_ = (*link)(nil).enter
	_ = (*link)(nil).hasten
	_ = (*link)(nil).land
	_ = (*link)(nil).listen
	_ = (*link)(nil).receive
	_ = (*link)(nil).refuse
	_ = (*link)(nil).renew
	_ = (*link)(nil).run
	_ = (*link)(nil).send
	_ = (*link)(nil).serve
	_ = (*link)(nil).session
	_ = (*link)(nil).start
	_ = (*link)(nil).strand
	_ = (*link)(nil).tellPush
	_ = (*link)(nil).whole
	_ = (*login)(nil).censor
	_ = (*login)(nil).introduce
	_ = (*memo)(nil).bound
	_ = (*memo)(nil).get
	_ = (*memo)(nil).keep
	_ = (*memo)(nil).put
	_ = (*middleware)(nil).attemptOf
	_ = (*middleware)(nil).forward
	_ = (*middleware)(nil).handler
	_ = (*middleware)(nil).nodeFailed
	_ = (*middleware)(nil).publicText
	_ = (*middleware)(nil).refuse
	_ = (*middleware)(nil).to
	_ = (*parsedAnswer)(nil).agree
	_ = (*part)(nil).blame
	_ = (*part)(nil).check
	_ = (*part)(nil).value
	_ = (*permit)(nil).setPorts
	_ = (*redisSettings)(nil).checkEndpoints
	_ = (*redisSettings)(nil).checkSecrets
	_ = (*redisSettings)(nil).clusterSlots
	_ = (*redisSettings)(nil).dial
	_ = (*redisSettings)(nil).dialAs
	_ = (*redisSettings)(nil).secret
	_ = (*redisSettings)(nil).startPush
	_ = (*redisSettings)(nil).tlsConfig
	_ = (*route)(nil).doubt
	_ = (*rule)(nil).apply
	_ = (*sentinels)(nil).ask
	_ = (*sentinels)(nil).compare
	_ = (*sentinels)(nil).dial
	_ = (*sentinels)(nil).first
	_ = (*sentinels)(nil).inTurn
	_ = (*sentinels)(nil).keep
	_ = (*sentinels)(nil).last
	_ = (*sentinels)(nil).listen
	_ = (*sentinels)(nil).master
	_ = (*sentinels)(nil).watch
	_ = (*sentinels)(nil).without
	_ = (*session)(nil).fail
	_ = (*session)(nil).pingPush
	_ = (*session)(nil).value
	_ = (*session)(nil).write
	_ = (*shared)(nil).end
	_ = (*shared)(nil).join
	_ = (*shared)(nil).leave
	_ = (*shelf)(nil).all
	_ = (*shelf)(nil).drop
	_ = (*shelf)(nil).dropAll
	_ = (*shelf)(nil).evict
	_ = (*shelf)(nil).get
	_ = (*shelf)(nil).put
	_ = (*shelf)(nil).remove
	_ = (*shortcuts)(nil).all
	_ = (*shortcuts)(nil).end
	_ = (*shortcuts)(nil).forget
	_ = (*shortcuts)(nil).open
	_ = (*shortcuts)(nil).put
	_ = (*shortcuts)(nil).remove
	_ = (*slotRange)(nil).same
	_ = (*table)(nil).begin
	_ = (*table)(nil).changed
	_ = (*table)(nil).close
	_ = (*table)(nil).doubt
	_ = (*table)(nil).fail
	_ = (*table)(nil).fetch
	_ = (*table)(nil).find
	_ = (*table)(nil).findAgain
	_ = (*table)(nil).flush
	_ = (*table)(nil).get
	_ = (*table)(nil).join
	_ = (*table)(nil).keep
	_ = (*table)(nil).landed
	_ = (*table)(nil).look
	_ = (*table)(nil).outlives
	_ = (*table)(nil).overdue
	_ = (*table)(nil).recheck
	_ = (*table)(nil).recheckWatches
	_ = (*table)(nil).remember
	_ = (*table)(nil).settle
	_ = (*table)(nil).start
	_ = (*table)(nil).tick
	_ = (*table)(nil).trust
	_ = (*table)(nil).turned
	_ = (*table)(nil).unwatch
	_ = (*table)(nil).wait
	_ = (*table)(nil).watch
	_ = (*table)(nil).young
	_ = (*trip)(nil).RoundTrip
	_ = (*tunnel)(nil).close
	_ = (*tunnel)(nil).note
	_ = (*watches)(nil).add
	_ = (*watches)(nil).remove
	_ = (*watchman)(nil).all
	_ = (*watchman)(nil).leave
	_ = (*watchman)(nil).look
	_ = (*watchman)(nil).staysOn
	_ = (*watchman)(nil).watch
}

// The methods of redigo's connections, and the types that its helpers look for, have no
// names here. So a connection that is closed is asked once for all that links and sentinels
// ask theirs for, and each helper is given what makes it look for all that it can take.
func init() {
	near, far := net.Pipe()
	far.Close()
	conn := redis.NewConn(near, 0, 0)
	conn.Do("PING", 0)
	conn.Send("PING", 0)
	conn.Flush()
	conn.Receive()
	redis.ReceiveWithTimeout(conn, 0)
	conn.(redis.ConnWithTimeout).ReceiveWithTimeout(0)
	conn.Err()
	conn.Close()

	redis.Int([]byte("0"), nil)
	redis.Int64([]byte("0"), nil)
	redis.String([]byte(""), nil)
	redis.Values([]interface{}{}, nil)
	redis.Strings([]interface{}{[]byte("")}, nil)
}
