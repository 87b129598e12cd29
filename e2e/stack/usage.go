package stack

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of the times in /proc/PID/stat: USER_HZ, 100 on every
// Linux that Go runs on (proc_pid_stat(5)).
const clockTick = 10 * time.Millisecond

// CPU returns how much processor time processes have used, their own and the
// system's for them.
func CPU(pids ...int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		fields, err := stat(pid)
		if err != nil {
			return 0, err
		}
		for _, field := range fields[11:13] {
			ticks, err := strconv.Atoi(field)
			if err != nil {
				return 0, err
			}
			sum += time.Duration(ticks) * clockTick
		}
	}
	return sum, nil
}

// Resident returns how many bytes of memory processes have that are not shared
// with files.
func Resident(pids ...int) (int, error) {
	sum := 0
	for _, pid := range pids {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, err
		}
		_, rest, found := strings.Cut(string(status), "RssAnon:")
		words := strings.Fields(rest)
		if !found || len(words) == 0 {
			return 0, fmt.Errorf("process %d: its status tells no RssAnon", pid)
		}
		kilobytes, err := strconv.Atoi(words[0])
		if err != nil {
			return 0, err
		}
		sum += kilobytes << 10
	}
	return sum, nil
}

// stat returns what /proc tells of a process after its name: its state, its
// parent, and so on.
func stat(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 13 {
		return nil, fmt.Errorf("process %d: cannot read its stat: %s", pid, text)
	}
	return fields, nil
}

// children returns the processes that a process has started.
func children(parent int) []int {
	var found []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if fields, err := stat(pid); err == nil && fields[1] == strconv.Itoa(parent) {
			found = append(found, pid)
		}
	}
	return found
}
