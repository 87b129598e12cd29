package dynamicforward

import (
	"bytes"
	"net/http/httputil"
	"reflect"
	"sync"
)

// bufferSize is httputil's own default, and Traefik's.
const bufferSize = 32 * 1024

// bufferPool keeps the proxies from making a buffer for each response.
type bufferPool struct{}

// buffers is what it keeps.
var buffers = &sync.Pool{New: func() interface{} { return make([]byte, bufferSize) }}

// Get implements httputil.BufferPool.
func (bufferPool) Get() []byte {
	return buffers.Get().([]byte)
}

// Put implements httputil.BufferPool.
func (bufferPool) Put(buffer []byte) {
	//lint:ignore SA6002 a pointer to the slice costs more than it saves, interpreted
	buffers.Put(buffer)
}

// pooled is a bufferPool. Yaegi: a value of our own goes into a compiled struct's
// field by way of a variable of the field's type.
var pooled httputil.BufferPool = bufferPool{}

// newCarriers returns the proxies that plain requests without a lane are forwarded
// by, one at a time each; where to is set for each request. So a proxy can have one
// buffer for good, in place of bufferPool, whose two callbacks cost as much,
// interpreted, as all the rest.
func newCarriers(f *forwarder) *sync.Pool {
	create := func() interface{} {
		proxy := &httputil.ReverseProxy{Transport: f.transport, BufferPool: pooled, FlushInterval: f.flush}
		ownBuffer(proxy)
		return proxy
	}
	return &sync.Pool{New: create}
}

// ownBuffer gives a proxy a buffer of its own. No compiled type lends one, but the
// struct in which Yaegi keeps an interpreted BufferPool has its methods in two
// fields, and methods of compiled types fit them: one returns always the same
// buffer, one takes it back and does nothing that matters. Where there is no such
// struct, as when the plugin is compiled, bufferPool stays.
func ownBuffer(proxy *httputil.ReverseProxy) {
	lender := reflect.ValueOf(proxy).Elem().FieldByName("BufferPool")
	own := reflect.New(lender.Elem().Type()).Elem()
	get := own.FieldByName("WGet")
	put := own.FieldByName("WPut")
	lend := reflect.ValueOf(bytes.NewBuffer(make([]byte, bufferSize))).MethodByName("Bytes")
	takeBack := reflect.ValueOf(bytes.NewReader(nil)).MethodByName("Reset")
	if !get.IsValid() || !put.IsValid() || get.Type() != lend.Type() || put.Type() != takeBack.Type() {
		return
	}
	get.Set(lend)
	put.Set(takeBack)
	lender.Set(own)
}
