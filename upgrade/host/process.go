package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	versionTimeout = 15 * time.Second      // for a program to tell its version on a loaded machine
	lookEvery      = 20 * time.Millisecond // between two looks at a process that is not ours to wait for
	maxVersion     = 64 << 10              // bytes that are read of what a program prints as its version
)

// process runs a member as a plain process of this machine: a command line, a pid file
// and a log file. The operator's command line stays as it is in the inventory; a note
// beside the pid file says which program stands in its first place.
//
// Beside PIDFILE stand
//
//	PIDFILE.start   which start the pid is of: the boot, and the process's line of /proc
//	PIDFILE.program the note: what Start starts, and what was there before
//	PIDFILE.lock    held while a member is being started, by the tool and then by the
//	                child until it has become the member
type process struct {
	spec Spec
}

// newProcess makes every path of spec absolute, so that a tool that is run from
// another directory means the same member.
func newProcess(spec Spec) (Executor, error) {
	for _, p := range []*string{&spec.PIDFile, &spec.Dir, &spec.Log} {
		if *p == "" && p == &spec.Log {
			*p = spec.PIDFile + ".log"
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return nil, fmt.Errorf("find the working directory: %w: start the tool in a directory that exists", err)
		}
		*p = abs
	}
	for _, e := range spec.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return nil, fmt.Errorf("host.env: %q: write NAME=value", e)
		}
	}
	return &process{spec: spec}, nil
}

// Inspect looks into the pid file, the notes and /proc.
func (x *process) Inspect(context.Context) (State, error) {
	n, err := x.note()
	if err != nil {
		return State{}, err
	}
	p, err := x.find()
	if err != nil {
		return State{}, err
	}
	st := State{Program: Program{Binary: n.Program}, Args: slices.Clone(memberArgs(x.spec.Command[1:])), Env: environment(x.spec.Env)}
	if p.pid != 0 {
		st.Running, st.ID = true, p.id()
		st.Program.Binary = p.program(n.Program)
		st.Detail = fmt.Sprintf("pid %d", p.pid)
	} else {
		st.Detail = x.lastWords()
	}
	if st.DataDir = dataDir(st.Args, x.environment(), x.spec.Dir); st.DataDir != "" {
		st.Free = freeBytes(st.DataDir)
	}
	return st, nil
}

// Stage runs p with --version and nothing else.
func (x *process) Stage(ctx context.Context, p Program) (string, error) {
	if err := binary(p, "process"); err != nil {
		return "", err
	}
	switch info, err := os.Stat(p.Binary); {
	case err != nil:
		return "", fmt.Errorf("look for the program: %w: copy it to this machine first", err)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("look for the program: %s is not a file: name the binary itself", p.Binary)
	case info.Mode()&0o111 == 0:
		return "", fmt.Errorf("look for the program: %s cannot be executed: run chmod +x %s", p.Binary, p.Binary)
	}
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.Binary, "--version")
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second
	out := &limited{left: maxVersion}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer within %v", versionTimeout)
		}
		return "", fmt.Errorf("ask %s for its version: %w %s: is it built for this machine?", p, err, clip(strings.TrimSpace(out.String())))
	}
	return printed(p, out.String())
}

// Stop sends SIGTERM once a call and waits until the process has ended.
func (x *process) Stop(ctx context.Context) error {
	p, err := x.find()
	if err != nil || p.pid == 0 {
		return err
	}
	// The handle is opened before the process is looked at again: from then on it is
	// this very process that the signal goes to, or none.
	handle, err := os.FindProcess(p.pid)
	if err != nil || !p.alive() {
		return nil
	}
	defer func() { _ = handle.Release() }()
	if err := handle.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send SIGTERM to pid %d: %w: run as the member's user or as root", p.pid, err)
	}
	if err := until(ctx, func() (bool, error) { return !p.alive(), nil }); err != nil {
		return fmt.Errorf("stop pid %d: %w: it was sent SIGTERM and is never killed: look into %s, and run again", p.pid, ErrStillRunning, x.spec.Log)
	}
	return nil
}

// Swap writes the note. It asks p for its version, because a Theseus under its own
// name takes a member's arguments behind a word of its own.
func (x *process) Swap(ctx context.Context, p Program) error {
	if err := binary(p, "process"); err != nil {
		return err
	}
	lock, err := x.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	n, err := x.note()
	if err != nil || n.Program == p.Binary {
		return err
	}
	switch running, err := x.find(); {
	case err != nil:
		return err
	case running.pid != 0:
		return fmt.Errorf("swap to %s: %w as pid %d: stop it first", p, ErrStillRunning, running.pid)
	}
	if i := slices.IndexFunc(n.Kept, func(k definition) bool { return k.Program == p.Binary }); i >= 0 {
		back := n.Kept[i]
		n.Kept = append(slices.Delete(n.Kept, i, i+1), n.definition)
		n.definition = back
		return x.writeNote(n)
	}
	version, err := x.Stage(ctx, p)
	if err != nil {
		return err
	}
	n.Kept = append(n.Kept, n.definition)
	n.definition = definition{Program: p.Binary, Words: words(version)}
	return x.writeNote(n)
}

// Start runs the command line in a session of its own, which outlives this one.
func (x *process) Start(ctx context.Context) error {
	lock, err := x.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	n, err := x.note()
	if err != nil {
		return err
	}
	p, err := x.find()
	if err == nil && p.pid == 0 {
		if err = x.stray(n); err == nil {
			err = x.launch(n, lock)
		}
	}
	if err != nil {
		return err
	}
	// The child lets go of its share when it has become the member, or when it is gone.
	if err := lock.Close(); err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	if lock, err = x.lock(ctx); err != nil {
		return err
	}
	return x.awaitProgram(ctx, n)
}

// awaitProgram waits until the child runs the member's program instead of the shell.
func (x *process) awaitProgram(ctx context.Context, n note) error {
	err := until(ctx, func() (bool, error) {
		p, err := x.find()
		if err == nil && p.pid == 0 {
			err = fmt.Errorf("start %s: it ended at once (%s): see %s", n.Program, x.lastWords(), x.spec.Log)
		}
		return err == nil && !p.launching(), err
	})
	if errors.Is(err, errNotYet) {
		return fmt.Errorf("start %s: it does not run yet: see %s, and run again", n.Program, x.spec.Log)
	}
	return err
}

// Logs reads the end of the log file.
func (x *process) Logs(_ context.Context, lines int) ([]string, error) {
	got, err := tail(x.spec.Log, lines)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return got, err
}

// Finish forgets what was there before; what Start starts stays.
func (x *process) Finish(ctx context.Context) error {
	lock, err := x.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	n, err := x.note()
	if err != nil || len(n.Kept) == 0 {
		return err
	}
	n.Kept = nil
	return x.writeNote(n)
}

// Close has nothing to end.
func (x *process) Close() error { return nil }

// environment is what the member is started with: this process's and the inventory's.
func (x *process) environment() map[string]string {
	return environment(append(os.Environ(), x.spec.Env...))
}

// lastWords is the last line of the log, for people.
func (x *process) lastWords() string {
	if lines, err := tail(x.spec.Log, 1); err == nil && len(lines) == 1 {
		return "not running, its last line: " + clip(lines[0])
	}
	return "not running"
}

// binary refuses a program that is not a path on this machine.
func binary(p Program, kind string) error {
	switch {
	case p.Image != "" || p.Binary == "":
		return fmt.Errorf("host of kind %s cannot run %q: name a binary, not an image", kind, p)
	case !filepath.IsAbs(p.Binary):
		return fmt.Errorf("program %q: write its absolute path", p.Binary)
	}
	return nil
}

// errNotYet ends until when ctx does.
var errNotYet = errors.New("not yet")

// until asks done every lookEvery until it says so, fails, or ctx ends.
func until(ctx context.Context, done func() (bool, error)) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", errNotYet, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// limited keeps the first bytes that are written to it and drops the rest.
type limited struct {
	bytes.Buffer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	keep := b[:min(len(b), l.left)]
	l.left -= len(keep)
	l.Buffer.Write(keep)
	return len(b), nil
}
