package ctl

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"theseus/printer"
)

// Exit codes of etcdctl.
const (
	exitOK          = 0
	exitError       = 1   // the server or the RPC failed
	exitConnection  = 2   // no connection, or not authenticated
	exitInput       = 3   // what was typed into txn or watch
	exitBadFeature  = 4   // an option or output format that does not exist
	exitInterrupted = 5   // a watch cancelled by the server, a snapshot not saved
	exitBadArgs     = 128 // arguments
)

// Options are what a command line runs with.
type Options struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Offline runs `snapshot status` and `snapshot restore`, which etcdctl had
	// before 3.6, with these arguments and returns the exit code. Nil: they are
	// unknown, as in etcdctl 3.7.
	Offline func(args []string) int
}

// Main runs one command line and returns the exit code. args[0] is the name that
// the program goes by: "etcdctl", with or without a path, or "theseus ctl".
func Main(args []string, o Options) int {
	a := newApp(args[0], o)
	root := a.root()
	root.SetArgs(args[1:])
	if len(args) > 1 && strings.HasPrefix(args[1], cobra.ShellCompRequestCmd) {
		root.SetOut(o.Stdout)
	}
	cmd, err := root.ExecuteC()
	if err != nil {
		if !a.exact { // else cobra has said it
			a.errorf("Error: %v\n%s\n", err, seeHelp(cmd.CommandPath()))
		}
		return a.code(exitError, true)
	}
	return a.finish()
}

// prefixOnce guards cobra's global switch for shortened command names.
var prefixOnce sync.Once

// app is one run.
type app struct {
	name   string // as in help texts
	exact  bool   // under etcdctl's name
	o      Options
	in     *bufio.Reader // over o.Stdin, the one reader of it
	g      globals
	print  *printer.Printer // set by begin
	path   string           // of the command, as in help texts
	reason reason           // why no connection could be made
	// err is what the command came to. Commands do not return it to cobra, which
	// would take it for a mistake in the command line.
	err error
}

func newApp(name string, o Options) *app {
	prefixOnce.Do(func() { cobra.EnablePrefixMatching = true })
	a := &app{name: name, o: o, in: bufio.NewReader(o.Stdin)}
	if base := filepath.Base(name); base == "etcdctl" {
		a.name, a.exact = base, true
	}
	return a
}

// exitErr is an error that decides the exit code. A nil err has been reported already.
type exitErr struct {
	code int
	err  error
	pass bool // the code is that of another program, under either name
}

func (e *exitErr) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *exitErr) Unwrap() error { return e.err }

// fail gives err an exit code; nil stays nil.
func fail(code int, err error) error {
	if err == nil {
		return nil
	}
	return &exitErr{code: code, err: err}
}

// reported ends a command whose error has been written.
func reported(code int) error { return &exitErr{code: code} }

// passed ends a command that stands for another program.
func passed(code int, err error) error { return &exitErr{code: code, err: err, pass: true} }

// badArgs is the error of arguments that make no sense.
func badArgs(format string, v ...any) error { return fail(exitBadArgs, fmt.Errorf(format, v...)) }

// badOption is the error of an option's value that does not exist.
func badOption(format string, v ...any) error { return fail(exitBadFeature, fmt.Errorf(format, v...)) }

// run adapts a command to cobra.
func (a *app) run(f func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) {
	return func(cmd *cobra.Command, args []string) {
		a.path = cmd.CommandPath()
		a.err = f(cmd, args)
	}
}

// finish reports the error of the command and returns the exit code.
func (a *app) finish() int {
	if a.err == nil {
		return exitOK
	}
	var e *exitErr
	var u *printer.UnsupportedError
	code, silent, pass := exitError, false, false
	switch {
	case errors.As(a.err, &e):
		code, silent, pass = e.code, e.err == nil, e.pass
	case errors.As(a.err, &u), errors.Is(a.err, printer.ErrUnknownFormat):
		code = exitBadFeature
	}
	if !silent {
		a.errorf("Error: %v\n", a.err)
	}
	if next := a.hint(a.err); next != "" && !pass {
		a.errorf("%s\n", next)
	}
	if pass {
		return code
	}
	return a.code(code, code == exitBadArgs || code == exitBadFeature || code == exitInput)
}

// code maps etcdctl's exit codes to ours under our own name.
func (a *app) code(code int, usage bool) int {
	switch {
	case a.exact || code == exitOK:
		return code
	case usage:
		return 2
	}
	return exitError
}

func (a *app) printf(format string, v ...any) { fmt.Fprintf(a.o.Stdout, format, v...) }

func (a *app) errorf(format string, v ...any) { fmt.Fprintf(a.o.Stderr, format, v...) }

// show prints one result.
func (a *app) show(r printer.Result) error { return a.print.Print(r) }

// environ is the environment that commands run by watch and lock inherit.
func environ(more ...string) []string { return append(os.Environ(), more...) }
