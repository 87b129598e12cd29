package dynamicforward

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"reflect"
	"strconv"
	"sync"
	"testing"
)

func TestNoTwoCarriersLendTheSameBuffer(t *testing.T) {
	carriers := newCarriers(&forwarder{transport: &http.Transport{}})
	one := carriers.Get().(*httputil.ReverseProxy)
	other := carriers.Get().(*httputil.ReverseProxy)
	a := one.BufferPool.Get()
	b := other.BufferPool.Get()
	if len(a) != bufferSize || len(b) != bufferSize {
		t.Fatalf("buffers of %d and %d bytes, want %d", len(a), len(b), bufferSize)
	}
	a[0] = 1
	b[0] = 2
	if a[0] != 1 {
		t.Error("one buffer for both")
	}
	one.BufferPool.Put(a)
	again := one.BufferPool.Get()
	interpreted := reflect.ValueOf(one).Elem().FieldByName("BufferPool").Elem().FieldByName("WGet").IsValid()
	if len(again) != bufferSize || interpreted && &again[0] != &a[0] {
		t.Error("interpreted, the buffer is not the proxy's own")
	}
}

// patterned is an answer that tells which it is at every byte.
func patterned(number int) []byte {
	return bytes.Repeat([]byte(fmt.Sprintf("%04d", number)), 3*bufferSize/4)
}

func TestAnswersAtTheSameTimeDoNotMix(t *testing.T) {
	const clients = 16
	var arrived sync.WaitGroup
	arrived.Add(clients)
	answer := func(w http.ResponseWriter, r *http.Request) {
		number, err := strconv.Atoi(r.Header.Get("Number"))
		if err != nil {
			return // the first, which finds the way
		}
		body := patterned(number)
		_, _ = w.Write(body[:bufferSize])
		w.(http.Flusher).Flush()
		arrived.Done()
		arrived.Wait()
		_, _ = w.Write(body[bufferSize:])
	}
	node := httptest.NewServer(http.HandlerFunc(answer))
	t.Cleanup(node.Close)
	url := shortGateway(t, node.Listener.Addr().String(), func(_ *Config) {})

	wrong := make(chan string, clients)
	ask := func(number int) {
		request, err := http.NewRequest("GET", url, nil)
		if err != nil {
			wrong <- err.Error()
			return
		}
		request.Header.Set("Number", strconv.Itoa(number))
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			wrong <- err.Error()
			return
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || !bytes.Equal(body, patterned(number)) {
			wrong <- fmt.Sprintf("client %d: %d bytes that are not its own (%v)", number, len(body), err)
			return
		}
		wrong <- ""
	}
	for number := 1; number <= clients; number++ {
		go ask(number)
	}
	for i := 0; i < clients; i++ {
		if what := <-wrong; what != "" {
			t.Error(what)
		}
	}
}
