package main

import (
	"testing"
	"time"

	"github.com/google/pprof/profile"
)

func TestAMomentCountsForTheNearestComponent(t *testing.T) {
	for _, test := range []struct {
		want  string
		stack []string // the innermost first
	}{
		{"interpreter", []string{"runtime.mallocgc", "reflect.New", "github.com/traefik/yaegi/interp.call.func9", "net/http.HandlerFunc.ServeHTTP"}},
		{"system calls", []string{"internal/runtime/syscall.Syscall6", "syscall.Write", "net.(*conn).Write", "reflect.Value.call", "github.com/traefik/yaegi/interp.callBin.func1"}},
		{"garbage collection", []string{"runtime.scanobject", "runtime.gcDrainN", "runtime.gcAssistAlloc", "runtime.mallocgc", "github.com/traefik/yaegi/interp.newFrame"}},
		{"http.Transport", []string{"runtime.mapassign", "net/http.(*persistConn).readLoop"}},
		{"requests and answers: reading, writing", []string{"bufio.(*Reader).ReadSlice", "net/http.ReadResponse", "github.com/traefik/yaegi/interp.callBin.func1"}},
		{everythingElse, []string{"runtime.sysmon"}},
	} {
		if got := spentIn(test.stack); got != test.want {
			t.Errorf("%v: spent in %q, want %q", test.stack, got, test.want)
		}
	}
}

func TestCallersInlinedInOthersCountToo(t *testing.T) {
	inner := &profile.Function{Name: "strings.Index"}
	outer := &profile.Function{Name: "net/http/httputil.(*ReverseProxy).ServeHTTP"}
	sample := &profile.Sample{Location: []*profile.Location{{Line: []profile.Line{{Function: inner}, {Function: outer}}}}}
	if got := spentIn(functions(sample)); got != "httputil.ReverseProxy" {
		t.Errorf("spent in %q", got)
	}
}

func TestTimeIsSharedOutWhole(t *testing.T) {
	times := sharedOut(100*time.Microsecond, map[string]float64{"a": 3, "b": 1})
	if times["a"] != 75*time.Microsecond || times["b"] != 25*time.Microsecond || times[allTogether] != 100*time.Microsecond {
		t.Errorf("%v", times)
	}
}
