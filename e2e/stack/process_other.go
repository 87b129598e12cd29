//go:build !linux

package stack

import "syscall"

// childAttributes keeps a terminal's Ctrl-C from the child, which its parent
// stops in good order.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
