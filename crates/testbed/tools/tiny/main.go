// Command tiny is the one program in the testbed's images. The name that it is
// called by says what it does: "true" ends with 0, "false" with 1, anything
// else ("pause", "sleep") waits until it is told to end.
package main

import (
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	switch filepath.Base(os.Args[0]) {
	case "true":
		os.Exit(0)
	case "false":
		os.Exit(1)
	}
	// As process 1 of a Pod's sandbox it also inherits orphans; ignoring
	// SIGCHLD lets the kernel reap them.
	signal.Ignore(syscall.SIGCHLD)
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	<-end
}
