package main

import (
	"strings"
	"testing"
	"time"
)

// What wrk 4.1.0 says.
const (
	wrkSaid = `Running 1s test @ http://127.0.0.1:8080/ws?nodeName=n1&threadId=1&platform=dev
  2 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.26ms  512.10us  12.50ms   91.20%
    Req/Sec    12.90k     1.05k   14.80k    77.27%
  Latency Distribution
     50%    1.17ms
     75%    1.41ms
     90%    1.72ms
     99%  950.00us
  28113 requests in 1.10s, 4.23MB read
Requests/sec:  25559.52
Transfer/sec:      3.85MB
`
	wrkOfErrors  = "  Socket errors: connect 0, read 3, write 0, timeout 0\n"
	wrkOfRefusal = "  Non-2xx or 3xx responses: 12\n"
)

func TestWhatWrkSaysIsRead(t *testing.T) {
	count, took, p50, p99, err := read([]byte(wrkSaid))
	if err != nil || count != 28113 || took.Round(10*time.Microsecond) != 1099900*time.Microsecond || p50 != 1170*time.Microsecond || p99 != 950*time.Microsecond {
		t.Errorf("%d in %s, p50 %s, p99 %s, %v", count, took, p50, p99, err)
	}
	for _, missing := range []string{"28113", "Requests/sec:", "50%", "99%"} {
		if _, _, _, _, err := read([]byte(strings.Replace(wrkSaid, missing, "", 1))); err == nil {
			t.Errorf("without %s it is read all the same", missing)
		}
	}
	if _, _, _, _, err := read([]byte(strings.NewReplacer("28113", "0", "25559.52", "0.00").Replace(wrkSaid))); err == nil {
		t.Error("no answer at all is no error")
	}
}

func TestARequestThatFailsIsAnError(t *testing.T) {
	for _, told := range []string{wrkOfErrors, wrkOfRefusal} {
		said := strings.Replace(wrkSaid, "Requests/sec", told+"Requests/sec", 1)
		if err := failed([]byte(said)); err == nil || err.Error() != strings.TrimSpace(told) {
			t.Errorf("%q: %v", told, err)
		}
	}
	if err := failed([]byte(wrkSaid)); err != nil {
		t.Error(err)
	}
}
