//go:build unix

package h2

import "syscall"

// canTry tells that a socket can be written to without waiting.
const canTry = true

// attempt writes what the socket takes at once; it is the callback of
// syscall.RawConn.Write and never asks to be called again.
func (c *conn) attempt(fd uintptr) bool {
	for {
		n, err := syscall.Write(int(fd), c.tryBuf)
		if err == syscall.EINTR {
			continue
		}
		if err == syscall.EAGAIN {
			err = nil
		}
		c.tryN, c.tryErr = max(n, 0), err
		return true
	}
}
