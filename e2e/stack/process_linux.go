package stack

import "syscall"

// childAttributes keeps a terminal's Ctrl-C from the child, which its parent
// stops in good order, and ends the child when its parent dies.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
