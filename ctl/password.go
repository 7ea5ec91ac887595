package ctl

import (
	"errors"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// askPassword prompts on stdout and reads a line from stdin, without echo where
// stdin is a terminal.
func (a *app) askPassword(prompt string) (string, error) {
	a.printf("%s", prompt)
	defer a.printf("\n")
	if f, ok := a.o.Stdin.(*os.File); ok {
		restore := hideInput(int(f.Fd()))
		defer restore()
	}
	return a.readLine()
}

// askNewPassword asks twice.
func (a *app) askNewPassword(user string) (string, error) {
	first, err := a.askPassword("Password of " + user + ": ")
	if err != nil {
		return "", err
	}
	if first == "" {
		return "", badArgs("empty password")
	}
	second, err := a.askPassword("Type password of " + user + " again for confirmation: ")
	if err != nil {
		return "", err
	}
	if first != second {
		return "", badArgs("given passwords are different")
	}
	return first, nil
}

// readLine reads a line of stdin without its end; the end of stdin ends a line too.
func (a *app) readLine() (string, error) {
	line, err := a.in.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fail(exitError, err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// hideInput turns the echo of a terminal off and returns what turns it on again;
// of anything else it does nothing.
func hideInput(fd int) (restore func()) {
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return func() {}
	}
	quiet := *old
	quiet.Lflag &^= unix.ECHO
	if unix.IoctlSetTermios(fd, unix.TCSETS, &quiet) != nil {
		return func() {}
	}
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, old) }
}

// terminal reports whether w is a terminal.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
