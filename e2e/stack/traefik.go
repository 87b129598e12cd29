package stack

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// TraefikOptions say how to start Traefik. The zero value starts the
// repository's own build with nothing but the plugin loaded.
type TraefikOptions struct {
	// Bin is the binary; default: the environment's TRAEFIK_BIN, else
	// .build/traefik in the repository.
	Bin string
	// Root is the plugin's repository; default: found by Root.
	Root string
	// Addr is the address of the entry point web; default: a free port of
	// 127.0.0.1.
	Addr string
	// Dynamic is the dynamic configuration, as YAML; see Dynamic.YAML.
	Dynamic string
	// EntryPoint is YAML for the options of the entry point web other than
	// its address; default: a graceTimeOut of one second, so that Stop does
	// not wait for open WebSockets.
	EntryPoint string
	// Static is YAML that is added to the static configuration at its top
	// level, such as a metrics section. Sections that the stack writes
	// itself (global, log, accessLog, api, entryPoints, providers,
	// experimental) cannot be in it.
	Static string
	// LogLevel is Traefik's; default: INFO.
	LogLevel string
	// AccessLog is the path of Traefik's own access log, written as JSON;
	// default: none.
	AccessLog string
	// Debug makes Traefik tell about itself; see Goroutines and LiveHeap.
	Debug bool
	// Env are additional environment variables, NAME=value.
	Env []string
	// NoPlugin starts Traefik without the plugin, to compare with.
	NoPlugin bool
	// AllowErrors lets Start and Reload succeed although Traefik refused a
	// router or a middleware; Errors tells which.
	AllowErrors bool
}

// Traefik is a running Traefik with the plugin.
type Traefik struct {
	o       TraefikOptions
	addr    string
	dir     string // its working directory
	process *process

	mu         sync.Mutex
	generation int
	applied    int // length of the log before the last reload
}

// patience bounds every wait for a process; it is generous, as it only tells
// a hang from slowness.
const patience = time.Minute

// StartTraefik starts Traefik with the plugin as a local plugin, copied from
// the repository, and waits until it serves the dynamic configuration. A
// plugin that does not load, and unless AllowErrors is set a configuration
// that is refused, is an error that ends with the log's last lines.
func StartTraefik(o TraefikOptions) (*Traefik, error) {
	if o.Root == "" {
		root, err := Root()
		if err != nil {
			return nil, err
		}
		o.Root = root
	}
	if o.Bin == "" {
		o.Bin = os.Getenv("TRAEFIK_BIN")
	}
	if o.Bin == "" {
		o.Bin = filepath.Join(o.Root, ".build", "traefik")
	}
	bin, err := exec.LookPath(o.Bin)
	if err != nil {
		return nil, fmt.Errorf("no Traefik at %s: let make build it (make demo and make test do), or set TRAEFIK_BIN to one that is there", o.Bin)
	}
	if o.Bin, err = filepath.Abs(bin); err != nil {
		return nil, err
	}
	if o.LogLevel == "" {
		o.LogLevel = "INFO"
	}

	dir, err := os.MkdirTemp("", "dynamicforward-traefik-")
	if err != nil {
		return nil, err
	}
	t := &Traefik{o: o, dir: dir}
	if err := installPlugin(o.Root, filepath.Join(dir, "plugins-local", "src", filepath.FromSlash(Module))); err != nil {
		t.Stop()
		return nil, err
	}
	if o.Addr != "" {
		err = t.start(o.Addr)
	} else {
		err = onFreePort(t.start)
	}
	if err != nil {
		t.Stop()
		return nil, err
	}
	return t, nil
}

// installPlugin copies what a plugin archive would hold.
func installPlugin(root, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(root, "*.go"))
	if err != nil {
		return err
	}
	files = append(files, filepath.Join(root, "go.mod"), filepath.Join(root, ".traefik.yml"))
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, filepath.Base(file)), content, 0o644); err != nil {
			return err
		}
	}
	vendor := filepath.Join(root, "vendor")
	if _, err := os.Stat(vendor); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return os.CopyFS(filepath.Join(to, "vendor"), os.DirFS(vendor))
}

func (t *Traefik) start(addr string) error {
	t.addr = addr
	t.generation = 1
	logFile := filepath.Join(t.dir, "traefik.log")
	_ = os.Remove(logFile) // of a try on another port
	if err := t.writeDynamic(t.o.Dynamic); err != nil {
		return err
	}
	static := filepath.Join(t.dir, "traefik.yml")
	if err := os.WriteFile(static, []byte(t.static()), 0o644); err != nil {
		return err
	}
	cmd := exec.Command(t.o.Bin, "--configFile="+static)
	cmd.Dir = t.dir
	cmd.Env = append(os.Environ(), t.o.Env...)
	var err error
	if t.process, err = startProcess(cmd, logFile); err != nil {
		return err
	}
	if !waitFor(patience, t.process.done, func() bool { return t.answers(1) }) {
		switch {
		case t.process.alive():
			return t.failed("Traefik does not serve its configuration")
		case strings.Contains(t.Log(), "address already in use"):
			return fmt.Errorf("%s: %w", addr, errPortTaken)
		default:
			return t.failed("Traefik ended")
		}
	}
	if strings.Contains(t.Log(), "Plugins are disabled because an error has occurred") {
		return t.failed("Traefik could not load the plugin")
	}
	return t.refused()
}

// static renders Traefik's static configuration.
func (t *Traefik) static() string {
	entryPoint := t.o.EntryPoint
	if entryPoint == "" {
		entryPoint = "transport: {lifeCycle: {graceTimeOut: 1s}}"
	}
	accessLog := ""
	if t.o.AccessLog != "" {
		accessLog = fmt.Sprintf("accessLog: {filePath: %s, format: json}\n", flow(t.o.AccessLog))
	}
	plugins := fmt.Sprintf("experimental: {localPlugins: {dynamicforward: {moduleName: %s}}}\n", Module)
	if t.o.NoPlugin {
		plugins = ""
	}
	return fmt.Sprintf(`global: {checkNewVersion: false, sendAnonymousUsage: false}
log: {level: %s, noColor: true}
%sapi: {insecure: false, dashboard: false, debug: %t}
entryPoints:
  web:
    address: %s
%s
providers:
  providersThrottleDuration: 10ms
  file: {filename: %s, watch: true}
%s%s
`, t.o.LogLevel, accessLog, t.o.Debug, flow(t.addr), indent(entryPoint, "    "), flow(t.dynamicFile()), plugins, t.o.Static)
}

func indent(yaml, by string) string {
	return by + strings.ReplaceAll(strings.TrimRight(yaml, "\n"), "\n", "\n"+by)
}

func (t *Traefik) dynamicFile() string { return filepath.Join(t.dir, "dynamic.yml") }

// writeDynamic replaces the dynamic configuration file in one step.
func (t *Traefik) writeDynamic(yaml string) error {
	marked, err := mark(yaml, t.generation)
	if err != nil {
		return err
	}
	if t.o.Debug {
		if marked, err = insert(marked, "routers", debugRouter); err != nil {
			return err
		}
	}
	t.applied = len(t.Log())
	next := filepath.Join(t.dir, "next.yml")
	if err := os.WriteFile(next, []byte(marked), 0o644); err != nil {
		return err
	}
	return os.Rename(next, t.dynamicFile())
}

// prober asks Traefik which generation it serves, on a new connection each
// time: an old one may be served by an old configuration.
var prober = http.Client{
	Transport: &http.Transport{DisableKeepAlives: true},
	Timeout:   5 * time.Second,
}

func (t *Traefik) answers(generation int) bool {
	resp, err := prober.Get(t.URL() + generationPath)
	if err != nil {
		return false
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return resp.Header.Get(generationHeader) == strconv.Itoa(generation)
}

// Reload gives Traefik another dynamic configuration and returns when
// requests are served by it.
func (t *Traefik) Reload(yaml string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.generation++
	if err := t.writeDynamic(yaml); err != nil {
		return err
	}
	if !waitFor(patience, t.process.done, func() bool { return t.answers(t.generation) }) {
		if !t.process.alive() {
			return t.failed("Traefik ended")
		}
		return t.failed("Traefik does not apply the new configuration")
	}
	return t.refused()
}

// refused reports what Traefik did not like about the configuration that it
// has just applied.
func (t *Traefik) refused() error {
	if lines := t.errors(); len(lines) > 0 && !t.o.AllowErrors {
		return fmt.Errorf("Traefik refused a part of the configuration:\n%s", strings.Join(lines, "\n"))
	}
	return nil
}

// Errors returns the log lines in which Traefik refused a router or a
// middleware of the configuration that it serves.
func (t *Traefik) Errors() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.errors()
}

func (t *Traefik) errors() []string {
	var found []string
	for line := range strings.Lines(t.Log()[t.applied:]) {
		if strings.Contains(line, " ERR ") && (strings.Contains(line, "routerName=") || strings.Contains(line, "middlewareName=")) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

func (t *Traefik) failed(what string) error {
	return fmt.Errorf("%s; the end of its log:\n%s", what, t.Tail(30))
}

// Addr returns the address of the entry point web, host:port.
func (t *Traefik) Addr() string { return t.addr }

// URL returns the entry point as a URL without a path.
func (t *Traefik) URL() string { return "http://" + t.addr }

// Port returns the entry point's port.
func (t *Traefik) Port() string {
	_, port, _ := net.SplitHostPort(t.addr)
	return port
}

// Dir returns Traefik's working directory; Stop removes it.
func (t *Traefik) Dir() string { return t.dir }

// Log returns what Traefik and the plugin have logged so far.
func (t *Traefik) Log() string {
	if t.process == nil {
		return ""
	}
	return t.process.log()
}

// Tail returns the last lines of the log.
func (t *Traefik) Tail(lines int) string { return tail(t.Log(), lines) }

// Pid returns Traefik's process id.
func (t *Traefik) Pid() int { return t.process.pid() }

// Alive tells whether Traefik still runs.
func (t *Traefik) Alive() bool { return t.process != nil && t.process.alive() }

// Healthy returns an error when Traefik has ended, does not answer, or has
// logged a panic.
func (t *Traefik) Healthy() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !t.Alive():
		return t.failed("Traefik has ended")
	case !waitFor(patience, t.process.done, func() bool { return t.answers(t.generation) }):
		return t.failed("Traefik does not answer")
	}
	log := t.Log()
	if at := strings.Index(strings.ToLower(log), "panic"); at >= 0 {
		from := strings.LastIndex(log[:at], "\n") + 1
		return fmt.Errorf("a panic in Traefik's log:\n%s", log[from:min(len(log), from+4000)])
	}
	return nil
}

// Kill ends Traefik with SIGKILL, as a crash would.
func (t *Traefik) Kill() { t.process.kill() }

// Signal sends Traefik a signal.
func (t *Traefik) Signal(s syscall.Signal) error { return t.process.signal(s) }

// Stop ends Traefik and removes its working directory.
func (t *Traefik) Stop() {
	if t.process != nil {
		t.process.stop(15 * time.Second)
	}
	_ = os.RemoveAll(t.dir)
}
