package stack

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
)

// debugRouter answers Traefik's debug endpoints on the entry point web.
const debugRouter = "stack-debug: {entryPoints: [web], rule: 'PathPrefix(`/debug/`)', priority: 1000000, service: api@internal}"

// Goroutines returns how many goroutines Traefik has. It needs Debug.
func (t *Traefik) Goroutines() (int, error) {
	return t.profile("/debug/pprof/goroutine?debug=1", goroutines)
}

// LiveHeap returns how many bytes of Traefik's heap are in use after garbage
// collection. It needs Debug.
func (t *Traefik) LiveHeap() (int, error) {
	// The first collection only takes what is pooled out of the pools.
	if _, err := t.profile("/debug/pprof/heap?gc=1&debug=1", heapAlloc); err != nil {
		return 0, err
	}
	return t.profile("/debug/pprof/heap?gc=1&debug=1", heapAlloc)
}

var (
	goroutines = regexp.MustCompile(`goroutine profile: total (\d+)`)
	heapAlloc  = regexp.MustCompile(`# HeapAlloc = (\d+)`)
)

var errNoDebug = errors.New("Traefik was started without Debug")

func (t *Traefik) profile(path string, number *regexp.Regexp) (int, error) {
	if !t.o.Debug {
		return 0, errNoDebug
	}
	client := http.Client{Timeout: patience} // a profile of many goroutines takes its time
	resp, err := client.Get(t.URL() + path)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	found := number.FindSubmatch(body)
	if resp.StatusCode != http.StatusOK || found == nil {
		return 0, fmt.Errorf("%s: %s: %.200s", path, resp.Status, body)
	}
	return strconv.Atoi(string(found[1]))
}

// CPUProfile returns a profile of Traefik's processor time in so many seconds from now
// on, as runtime/pprof writes it. It needs Debug.
func (t *Traefik) CPUProfile(seconds int) ([]byte, error) {
	if !t.o.Debug {
		return nil, errNoDebug
	}
	resp, err := http.Get(fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", t.URL(), seconds))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("the CPU profile: %s: %.200s", resp.Status, body)
	}
	return body, err
}

// Bin returns the path of the binary that runs.
func (t *Traefik) Bin() string { return t.o.Bin }

// Descriptors returns how many files and sockets Traefik has open.
func (t *Traefik) Descriptors() (int, error) {
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", t.Pid()))
	return len(open), err
}
