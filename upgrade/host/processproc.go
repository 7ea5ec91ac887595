package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// definition is a program and the words that it wants before a member's arguments.
type definition struct {
	Program string   `json:"program"`
	Words   []string `json:"words,omitempty"`
}

// note is what Swap remembers: what Start starts, and what was there before.
type note struct {
	Version int    `json:"version"`
	From    string `json:"from"` // the inventory's program when the note was made
	definition
	Kept []definition `json:"kept,omitempty"`
}

const noteVersion = 1

// note reads the note, or makes the one that the inventory stands for. When the
// inventory's program has been changed since, the operator's word is the newer one.
func (x *process) note() (note, error) {
	name := x.spec.Command[0]
	if strings.Contains(name, "/") && !filepath.IsAbs(name) {
		name = filepath.Join(x.spec.Dir, name)
	}
	// A program that is not found may be gone by now, replaced by the one that the
	// note names; if not, Start says so.
	if found, err := exec.LookPath(name); err == nil {
		name = found
	}
	first := note{Version: noteVersion, From: x.spec.Command[0], definition: definition{Program: name}}
	if args := x.spec.Command[1:]; len(args) > 0 && args[0] == serveWord {
		first.Words = []string{serveWord}
	}
	file := x.spec.PIDFile + ".program"
	raw, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return first, nil
	}
	if err != nil {
		return note{}, fmt.Errorf("read the note of the program: %w: run as the user that runs the upgrade", err)
	}
	var n note
	if err := json.Unmarshal(raw, &n); err != nil || n.Version != noteVersion || n.Program == "" {
		return note{}, fmt.Errorf("read %s: it is not a note of version %d: write the program into host.command and remove the file", file, noteVersion)
	}
	if n.From != x.spec.Command[0] {
		return first, nil
	}
	return n, nil
}

func (x *process) writeNote(n note) error {
	raw, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if err := writeAtomically(x.spec.PIDFile+".program", append(raw, '\n')); err != nil {
		return fmt.Errorf("write the note of the program: %w: make room or rights there, and run again", err)
	}
	return nil
}

// writeAtomically leaves file with the old content or the new one, also when the
// machine loses power.
func writeAtomically(file string, content []byte) error {
	tmp := file + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, file); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// proc is a process, told from a later one with the same pid by its start time.
type proc struct {
	pid   int // 0 is no process
	start uint64
}

func (p proc) id() string { return fmt.Sprintf("%d@%d", p.pid, p.start) }

// alive tells whether p runs. One that has ended and waits for its parent does not.
func (p proc) alive() bool {
	// Ours to reap if this tool started it; ECHILD and the like mean that it was not.
	var status unix.WaitStatus
	_, _ = unix.Wait4(p.pid, &status, unix.WNOHANG, nil)
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		return false
	}
	pid, start, ended, ok := parseStat(string(raw))
	return ok && !ended && pid == p.pid && start == p.start
}

// program returns name if that is what p executes, and else the path of what it does.
func (p proc) program(name string) string {
	link := fmt.Sprintf("/proc/%d/exe", p.pid)
	a, err := os.Stat(link)
	if err != nil {
		return name
	}
	if b, err := os.Stat(name); err == nil && os.SameFile(a, b) {
		return name
	}
	exe, err := os.Readlink(link)
	if err != nil {
		return name
	}
	if args := p.args(); len(args) > 1 && slices.Contains(args[:2], name) {
		return name // a script: its interpreter is what /proc names
	}
	return strings.TrimSuffix(exe, " (deleted)")
}

// args returns p's command line, program first.
func (p proc) args() []string {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
	if len(raw) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(raw), "\x00"), "\x00")
}

// launching tells whether p is still the shell that is to become the member.
func (p proc) launching() bool {
	a := p.args()
	return len(a) > 2 && a[1] == "-c" && a[2] == launchScript
}

// parseStat reads a line of /proc/PID/stat. The second field is the program's name in
// parentheses, which may hold anything, parentheses too.
func parseStat(line string) (pid int, start uint64, ended, ok bool) {
	open, end := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return 0, 0, false, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line[:open]))
	rest := strings.Fields(line[end+1:])
	if err != nil || len(rest) < 20 {
		return 0, 0, false, false
	}
	start, err = strconv.ParseUint(rest[19], 10, 64)
	return pid, start, strings.Contains("ZXx", rest[0]), err == nil
}

// find returns the member's process if it runs. The record of our own start decides;
// without it, or when that start has ended, a pid file that something else wrote counts
// if its process has the member's arguments. One that has others, and was there when the
// file was written, is an error: the member may well run, and not as the inventory has it.
func (x *process) find() (proc, error) {
	mine, err := x.record()
	if err != nil || mine.pid != 0 && mine.alive() {
		return mine, err
	}
	raw, err := os.ReadFile(x.spec.PIDFile)
	if errors.Is(err, os.ErrNotExist) {
		return proc{}, nil
	}
	if err != nil {
		return proc{}, fmt.Errorf("read the pid file: %w: run as the user that runs the upgrade", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || pid <= 0 {
		return proc{}, fmt.Errorf("read the pid file %s: %q is not a pid: write the member's pid into it, or remove it if the member is stopped", x.spec.PIDFile, clip(strings.TrimSpace(string(raw))))
	}
	p, ok := lookUp(pid)
	switch {
	case !ok || pid == mine.pid: // the file is of a start of ours that has ended
		return proc{}, nil
	case x.ours(p):
		return p, nil
	case p.age()+pidFileSlack < x.pidFileAge():
		return proc{}, nil // another process has the pid now
	}
	return proc{}, fmt.Errorf("pid file %s: pid %d runs %q, and not with the arguments of host.command: correct them, or remove the file if the member is stopped", x.spec.PIDFile, pid, clip(strings.Join(p.args(), " ")))
}

// record reads which process our last start on this boot became.
func (x *process) record() (proc, error) {
	raw, err := os.ReadFile(x.spec.PIDFile + ".start")
	if errors.Is(err, os.ErrNotExist) {
		return proc{}, nil
	}
	if err != nil {
		return proc{}, fmt.Errorf("read the record of the start: %w: run as the user that runs the upgrade", err)
	}
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	then, stat, _ := strings.Cut(string(raw), "\n")
	pid, start, _, ok := parseStat(stat)
	if !ok || then != strings.TrimSpace(string(boot)) {
		return proc{}, nil
	}
	return proc{pid, start}, nil
}

// pidFileSlack is how much later than the file a process may seem to have begun: the two
// clocks are not the same.
const pidFileSlack = 5 * time.Second

func (x *process) pidFileAge() time.Duration {
	info, err := os.Stat(x.spec.PIDFile)
	if err != nil {
		return 0
	}
	return time.Since(info.ModTime())
}

// age returns for how long p has run, or something very long if that cannot be told.
func (p proc) age() time.Duration {
	var now unix.Sysinfo_t
	if err := unix.Sysinfo(&now); err != nil {
		return math.MaxInt64 / 2
	}
	return time.Duration(now.Uptime)*time.Second - time.Duration(p.start)*(time.Second/ticks)
}

// ticks is the unit of /proc's start times, 1/100 s for every program on Linux.
const ticks = 100

// lookUp returns the process that has pid now, if it runs.
func lookUp(pid int) (proc, bool) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return proc{}, false
	}
	got, start, ended, ok := parseStat(string(raw))
	return proc{got, start}, ok && !ended && got == pid
}

// ours tells whether p has the member's arguments, whatever its program is called.
func (x *process) ours(p proc) bool {
	args, want := p.args(), memberArgs(x.spec.Command[1:])
	if p.launching() || len(args) < 1+len(want) {
		return false
	}
	return slices.Equal(args[len(args)-len(want):], want)
}

// stray refuses to start a member beside one that runs with the same arguments in the
// same directory and that the pid file does not know.
func (x *process) stray(n note) error {
	if len(memberArgs(x.spec.Command[1:])) == 0 {
		return nil // nothing to tell one member from another by
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("look for the member among the processes: %w: is /proc mounted?", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		p, ok := lookUp(pid)
		if !ok || !x.ours(p) {
			continue
		}
		name := filepath.Base(p.program(n.Program))
		if cwd, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); cwd == x.spec.Dir {
			return fmt.Errorf("start %s: pid %d (%s) runs with the same arguments already, and %s does not name it: write its pid there", n.Program, pid, name, x.spec.PIDFile)
		}
	}
	return nil
}

// launchScript writes which process it is, and then becomes the member: there is no
// moment at which the member runs and nothing says so. Descriptor 3 is the lock, which
// the tool's death leaves with this child until it has become the member.
const launchScript = `read -r boot </proc/sys/kernel/random/boot_id && read -r stat </proc/$$/stat &&
printf '%s\n%s\n' "$boot" "$stat" >"$1.start.new" && mv -f "$1.start.new" "$1.start" &&
printf '%s\n' $$ >"$1.new" && mv -f "$1.new" "$1" || exit 126
shift
exec "$@" 3>&-`

// launch starts the child that becomes the member, and gives it a share of the lock:
// the same open file, so that it is free when both have closed it.
func (x *process) launch(n note, lock *os.File) error {
	log, err := os.OpenFile(x.spec.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open the member's log: %w: name a file that can be written as host.log", err)
	}
	defer func() { _ = log.Close() }()
	argv := append([]string{"-c", launchScript, "sh", x.spec.PIDFile, n.Program}, n.Words...)
	cmd := exec.Command("/bin/sh", append(argv, memberArgs(x.spec.Command[1:])...)...)
	cmd.Env = append(os.Environ(), x.spec.Env...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = x.spec.Dir, log, log
	cmd.ExtraFiles = []*os.File{lock}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w: does %s exist?", n.Program, err, x.spec.Dir)
	}
	return cmd.Process.Release()
}

// lock keeps every other tool, and a child of one that has not become the member yet,
// from starting or redefining this member. It waits for them until ctx ends. The lock
// is held until the file is closed.
func (x *process) lock(ctx context.Context) (*os.File, error) {
	f, err := os.OpenFile(x.spec.PIDFile+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the lock beside the pid file: %w: make the directory, or name another as host.pidFile", err)
	}
	err = until(ctx, func() (bool, error) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s.lock: %w: another upgrade is at this member: wait for it", x.spec.PIDFile, err)
	}
	return f, nil
}
