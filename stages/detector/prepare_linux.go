package detector

import "syscall"

// childAttributes make the kernel end the child with this process, however it ends.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
