package main

import (
	"os"
	"syscall"
)

// tunables is what glibc's malloc is asked. One arena for all threads: with one
// for each, what one thread freed is of no use to another. From a megabyte on
// memory is mapped by itself and goes back to the system when it is freed: that
// is what a model for pages of varying size takes, which does without a pool. Large
// pages, where the system gives them to who asks: such a model's tensors are mapped
// anew for each run, and by pages of 4 KiB that is an eighth of its time.
const tunables = "glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=1048576:glibc.malloc.trim_threshold=1048576:glibc.malloc.hugetlb=1"

// tune starts the program anew with tunables, unless somebody has chosen some:
// glibc reads them before anything of the program runs. Where that fails the
// program runs as it is, and takes more memory.
func tune() {
	const name = "GLIBC_TUNABLES"
	if _, chosen := os.LookupEnv(name); chosen {
		return
	}
	_ = syscall.Exec(ownPath(), os.Args, append(os.Environ(), name+"="+tunables))
}

// ownPath is the path of the running program. A process is called what the path
// that was executed ends in, so it is the program's own, by which ps and pgrep find
// it, unless another file lies there now, or none.
func ownPath() string {
	const running = "/proc/self/exe"
	path, err := os.Executable()
	if err != nil {
		return running
	}
	there, err := os.Stat(path)
	if err != nil {
		return running
	}
	if this, err := os.Stat(running); err != nil || !os.SameFile(there, this) {
		return running
	}
	return path
}
