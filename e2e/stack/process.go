package stack

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"
)

// process is a child process whose output goes to a file.
type process struct {
	cmd     *exec.Cmd
	logFile string
	done    chan struct{} // closed when the process has ended and was waited for
}

// startProcess runs cmd with its output appended to logFile.
func startProcess(cmd *exec.Cmd, logFile string) (*process, error) {
	out, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = childAttributes()

	p := &process{cmd: cmd, logFile: logFile, done: make(chan struct{})}
	running.Lock()
	defer running.Unlock()
	if running.over {
		return nil, errors.New("nothing is to be started any more")
	}
	started := make(chan error)
	go func() {
		// The parent-death signal comes when the thread that started the
		// child ends (go.dev/issue/27505), so that thread stays for as long
		// as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	running.all = slices.DeleteFunc(running.all, func(p *process) bool { return !p.alive() })
	running.all = append(running.all, p)
	return p, nil
}

// running are the processes that were started, those that have ended since the last
// start among them.
var running struct {
	sync.Mutex
	all  []*process
	over bool
}

// KillAll kills every process that the stack has started and that still runs, with
// what it has started itself, and lets no more be started: for a program that is
// interrupted. The parent's death alone would leave nginx's workers behind.
func KillAll() {
	running.Lock()
	defer running.Unlock()
	running.over = true
	for _, p := range running.all {
		p.kill()
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// log returns everything that the process has written so far.
func (p *process) log() string {
	text, _ := os.ReadFile(p.logFile)
	return string(text)
}

func (p *process) signal(s syscall.Signal) error {
	if !p.alive() {
		return fmt.Errorf("%s (process %d) has ended", p.cmd.Path, p.pid())
	}
	return p.cmd.Process.Signal(s)
}

// stop ends the process with SIGTERM or, when that takes longer than bound,
// with SIGKILL.
func (p *process) stop(bound time.Duration) {
	_ = p.signal(syscall.SIGTERM)
	_ = p.signal(syscall.SIGCONT) // a stopped process takes no SIGTERM
	select {
	case <-p.done:
	case <-time.After(bound):
		p.kill()
	}
}

// kill ends the process, and what it has started, with SIGKILL: it leads a group.
func (p *process) kill() {
	if p.alive() {
		_ = syscall.Kill(-p.pid(), syscall.SIGKILL)
	}
	<-p.done
}
