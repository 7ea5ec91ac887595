package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

const (
	// swapName sorts behind what people call their drop-ins.
	swapName = "90-theseus-upgrade.conf"
	// keptName is not a .conf: systemd passes it over.
	keptName = "90-theseus-upgrade.kept"
	// patienceName is in /run and sorts last: while a member is being stopped, nothing
	// may set a time after which it is killed.
	patienceName = "zz-theseus-upgrade-stop.conf"
	patience     = "# Written by theseus upgrade while it stops the member; removed when it has stopped.\n" +
		"[Service]\nTimeoutStopSec=0\nKillSignal=SIGTERM\nSendSIGKILL=no\n"
)

// shownProperties are what is asked of systemctl show.
const shownProperties = "Id,LoadState,ActiveState,SubState,Result,MainPID,InvocationID,ExecMainStatus,ExecStart,ExecStop," +
	"Environment,EnvironmentFiles,FragmentPath,DropInPaths,TimeoutStopUSec,KillSignal,SendSIGKILL,NeedDaemonReload,WorkingDirectory,Job"

// systemd runs a member as a unit, through systemctl and journalctl: they are on every
// host that has systemd and say the same over ssh as here, where D-Bus would be a second
// way for one of the two. The operator's unit is never edited; the program stands in
// one drop-in, /etc/systemd/system/UNIT.d/90-theseus-upgrade.conf.
type systemd struct {
	shell *shell
	unit  string
}

func newSystemd(spec Spec) (Executor, error) {
	unit := spec.Unit
	if !strings.HasSuffix(unit, ".service") {
		unit += ".service"
	}
	if strings.HasPrefix(unit, "-") || strings.ContainsAny(unit, "/ \t*?[") {
		return nil, fmt.Errorf("host.unit: %q: write the name of one service", spec.Unit)
	}
	return &systemd{shell: newShell(spec), unit: unit}, nil
}

func (x *systemd) file(name string) string {
	if name == patienceName {
		return "/run/systemd/system/" + x.unit + ".d/" + name
	}
	return "/etc/systemd/system/" + x.unit + ".d/" + name
}

// loaded is a unit as systemd has it.
type loaded map[string]string

func (u loaded) stopped() bool { return u["ActiveState"] == "inactive" || u["ActiveState"] == "failed" }
func (u loaded) pid() string {
	if u["MainPID"] == "0" {
		return ""
	}
	return u["MainPID"]
}

// patient tells whether systemd ends the unit by SIGTERM alone.
func (u loaded) patient() bool {
	t := u["TimeoutStopUSec"]
	return (t == "infinity" || t == "0") && u["KillSignal"] == "15" && u["SendSIGKILL"] == "no"
}

// show asks systemd for the unit.
func (x *systemd) show(ctx context.Context) (loaded, error) {
	out, err := x.shell.run(ctx, "systemctl", "show", "--no-pager", "-p", shownProperties, "--", x.unit)
	if err != nil {
		return nil, fmt.Errorf("ask systemd for %s: %w", x.unit, err)
	}
	u := loaded(parseShow(out))
	if u["LoadState"] != "loaded" {
		return nil, fmt.Errorf("ask systemd for %s%s: it is %s: name the member's unit as host.unit", x.unit, x.shell.where(), u["LoadState"])
	}
	return u, nil
}

// defined is what the unit's files say.
type defined struct {
	own     execLine // what the operator's files start
	current execLine // what is started now, with our drop-in
	drop    string   // our drop-in, "" if there is none
}

// read reads the unit's files: the fragment, the drop-ins in systemd's order, and ours,
// which systemd may not have seen yet.
func (x *systemd) read(ctx context.Context, u loaded) (defined, error) {
	var d defined
	names := []string{u["FragmentPath"]}
	for _, f := range strings.Fields(u["DropInPaths"]) {
		if path.Base(f) != swapName {
			names = append(names, f)
		}
	}
	out, err := x.shell.script(ctx, `for f; do cat -- "$f" && printf '\0' || exit 1; done`, names...)
	if err != nil {
		return d, fmt.Errorf("read the files of %s: %w: run systemctl daemon-reload if one is gone", x.unit, err)
	}
	files := strings.Split(strings.TrimSuffix(out, "\x00"), "\x00")
	raw, err := execStart(files)
	if err != nil {
		return d, fmt.Errorf("read %s: %w", x.unit, err)
	}
	if d.own, err = parseExec(raw); err != nil {
		return d, err
	}
	d.own.program = specifiers(d.own.program, x.unit)
	if shown := shownPath(u["ExecStart"]); path.Base(shown) == d.own.program {
		d.own.program = shown // it was found in systemd's path
	}
	d.current = d.own
	own, err := x.shell.readFile(ctx, x.file(swapName))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return d, nil
	case err != nil:
		return d, err
	}
	d.drop = string(own)
	if raw, err = execStart([]string{d.drop}); err != nil {
		return d, fmt.Errorf("read %s: %w: remove the file to go back to the unit's own program", x.file(swapName), err)
	}
	if d.current, err = parseExec(raw); err == nil {
		d.current.program = specifiers(d.current.program, x.unit)
	}
	return d, err
}

// Inspect asks systemd, and /proc for what really runs.
func (x *systemd) Inspect(ctx context.Context) (State, error) {
	u, err := x.show(ctx)
	if err != nil {
		return State{}, err
	}
	d, err := x.read(ctx, u)
	if err != nil {
		return State{}, err
	}
	lines, err := x.environment(ctx, u)
	if err != nil {
		return State{}, err
	}
	st := State{Program: Program{Binary: d.current.member()}, Env: environment(lines)}
	st.Args = d.current.args(x.unit, st.Env)
	st.Detail = strings.TrimSpace(u["ActiveState"] + " (" + u["SubState"] + ")")
	if pid := u.pid(); pid != "" {
		st.Running, st.ID = true, u["InvocationID"]+"/"+pid
		st.Detail += ", pid " + pid
		if exe, args := x.process(ctx, pid, st.Program.Binary); exe != "" && !hasItem(wrappers, path.Base(exe)) {
			st.Program.Binary = exe
			st.Args = memberArgs(args)
		}
	} else if u["Result"] != "success" {
		st.Detail += ", " + u["Result"] + " " + u["ExecMainStatus"]
	}
	if u["NeedDaemonReload"] == "yes" {
		st.Detail += ", its files were changed since systemd read them"
	}
	if st.DataDir = dataDir(st.Args, st.Env, strings.TrimLeft(u["WorkingDirectory"], "!-")); st.DataDir != "" {
		st.Free = x.shell.freeBytes(ctx, st.DataDir)
	}
	return st, nil
}

// environment returns what the unit defines: its own lines first, then its files, of
// which one that is missing is passed over: systemd has said so if that is an error.
func (x *systemd) environment(ctx context.Context, u loaded) ([]string, error) {
	lines, err := unitWords(u["Environment"])
	if err != nil {
		lines = strings.Fields(u["Environment"])
	}
	for _, f := range environmentFiles(u["EnvironmentFiles"]) {
		raw, err := x.shell.readFile(ctx, f)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the environment of %s: %w", x.unit, err)
		}
		lines = append(lines, environmentFile(string(raw))...)
	}
	return lines, nil
}

// process returns what pid executes and its arguments; name if it is that very file.
func (x *systemd) process(ctx context.Context, pid, name string) (exe string, args []string) {
	out, err := x.shell.script(ctx, `e=$(readlink "/proc/$1/exe") || exit 1; [ "/proc/$1/exe" -ef "$2" ] && e=$2; printf '%s\0' "$e"; cat "/proc/$1/cmdline"`, pid, name)
	words := strings.Split(strings.TrimSuffix(out, "\x00"), "\x00")
	if err != nil || len(words) < 2 {
		return "", nil
	}
	return strings.TrimSuffix(words[0], " (deleted)"), words[2:]
}

// Stage runs p with --version on the host, and nothing else.
func (x *systemd) Stage(ctx context.Context, p Program) (string, error) {
	if err := binary(p, "systemd"); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, versionTimeout, fmt.Errorf("no answer within %v", versionTimeout))
	defer cancel()
	out, err := x.shell.script(ctx, `[ -e "$1" ] || exit 44; [ -f "$1" ] || exit 45; [ -x "$1" ] || exit 46; exec "$1" --version 2>&1`, p.Binary)
	var exit *exitError
	if errors.As(err, &exit) {
		switch exit.code {
		case 44:
			return "", fmt.Errorf("look for the program: %s is not there%s: copy it to the host first", p, x.shell.where())
		case 45:
			return "", fmt.Errorf("look for the program: %s%s is not a file: name the binary itself", p, x.shell.where())
		case 46:
			return "", fmt.Errorf("look for the program: %s%s cannot be executed: run chmod +x %s there", p, x.shell.where(), p)
		}
		return "", fmt.Errorf("ask %s for its version: %w: is it built for that machine?", p, err)
	}
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", p, err)
	}
	return printed(p, out)
}

// Stop asks systemd to stop the unit, and waits. systemd kills what has not ended after
// TimeoutStopSec: a drop-in in /run takes that away first. Other units that require
// this one are left as they are.
func (x *systemd) Stop(ctx context.Context) error {
	asked := "it was not asked to stop yet: run again"
	err := x.stop(ctx, func() {
		asked = "it was sent SIGTERM and is never killed: look into journalctl -u " + x.unit + ", and run again"
	})
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("stop %s%s: %w: %s", x.unit, x.shell.where(), ErrStillRunning, asked)
	}
	return err
}

// stop calls asked when systemd has been asked.
func (x *systemd) stop(ctx context.Context, asked func()) error {
	u, err := x.show(ctx)
	if err != nil || u.stopped() {
		return err
	}
	if strings.Contains(u["ExecStop"], "KILL") || strings.Contains(u["ExecStop"], " -9") {
		return fmt.Errorf("stop %s: its ExecStop kills: take the line out, run systemctl daemon-reload, and run again", x.unit)
	}
	if err := x.bePatient(ctx, u); err != nil {
		return err
	}
	if u["ActiveState"] != "deactivating" {
		if _, err := x.shell.run(ctx, "systemctl", "stop", "--no-block", "--job-mode=ignore-dependencies", "--", x.unit); err != nil {
			return fmt.Errorf("stop %s: %w", x.unit, err)
		}
	}
	asked()
	if err := until(ctx, func() (bool, error) {
		u, err := x.show(ctx)
		return err == nil && u.stopped() && u.pid() == "", err
	}); err != nil {
		return err
	}
	return x.noMorePatience(ctx)
}

// bePatient makes sure that systemd kills nothing, whatever the unit says.
func (x *systemd) bePatient(ctx context.Context, u loaded) error {
	if u.patient() {
		return nil
	}
	if err := x.shell.writeFile(ctx, x.file(patienceName), []byte(patience)); err != nil {
		return err
	}
	if err := x.reload(ctx); err != nil {
		return err
	}
	u, err := x.show(ctx)
	if err != nil {
		return err
	}
	if !u.patient() {
		return fmt.Errorf("stop %s: systemd would kill it after %s: set TimeoutStopSec=infinity in the unit, run systemctl daemon-reload, and run again", x.unit, u["TimeoutStopUSec"])
	}
	return nil
}

// noMorePatience takes the drop-in of Stop away again.
func (x *systemd) noMorePatience(ctx context.Context) error {
	switch there, err := x.shell.exists(ctx, x.file(patienceName)); {
	case err != nil:
		return fmt.Errorf("look for %s: %w", x.file(patienceName), err)
	case !there:
		return nil
	}
	if err := x.shell.removeFile(ctx, x.file(patienceName)); err != nil {
		return err
	}
	return x.reload(ctx)
}

func (x *systemd) reload(ctx context.Context) error {
	if _, err := x.shell.run(ctx, "systemctl", "daemon-reload"); err != nil {
		return fmt.Errorf("let systemd read %s again: %w", x.unit, err)
	}
	return nil
}

// kept is the note beside the drop-in: drop-ins that were there before, by program.
type kept struct {
	Version int               `json:"version"`
	DropIns map[string]string `json:"dropIns"`
}

func (x *systemd) kept(ctx context.Context) (kept, error) {
	k := kept{Version: noteVersion, DropIns: map[string]string{}}
	raw, err := x.shell.readFile(ctx, x.file(keptName))
	if errors.Is(err, os.ErrNotExist) {
		return k, nil
	}
	if err != nil {
		return k, err
	}
	if err := json.Unmarshal(raw, &k); err != nil || k.Version != noteVersion || k.DropIns == nil {
		return k, fmt.Errorf("read %s%s: it is not a note of version %d: remove the file, and run again", x.file(keptName), x.shell.where(), noteVersion)
	}
	return k, nil
}

// Swap writes the drop-in, or takes it away when p is the unit's own program.
func (x *systemd) Swap(ctx context.Context, p Program) error {
	if err := binary(p, "systemd"); err != nil {
		return err
	}
	u, err := x.show(ctx)
	if err != nil {
		return err
	}
	d, err := x.read(ctx, u)
	if err != nil {
		return err
	}
	k, err := x.kept(ctx)
	if err != nil {
		return err
	}
	want, err := x.dropInFor(ctx, p, d, k)
	if err != nil {
		return err
	}
	if want == d.drop && u["NeedDaemonReload"] != "yes" {
		return nil
	}
	if u.pid() != "" {
		return fmt.Errorf("swap to %s: %w as pid %s of %s: stop it first", p, ErrStillRunning, u.pid(), x.unit)
	}
	// Between two restarts of its supervisor nothing runs, and soon would again.
	if err := x.Stop(ctx); err != nil {
		return err
	}
	if d.drop != "" && d.drop != want && k.DropIns[d.current.member()] != d.drop {
		k.DropIns[d.current.member()] = d.drop
		raw, err := json.MarshalIndent(k, "", "  ")
		if err != nil {
			return err
		}
		if err := x.shell.writeFile(ctx, x.file(keptName), append(raw, '\n')); err != nil {
			return err
		}
	}
	if err := x.put(ctx, want); err != nil {
		return err
	}
	return x.verify(ctx, p, d)
}

// dropInFor returns the drop-in that p wants, "" if it is the unit's own program.
func (x *systemd) dropInFor(ctx context.Context, p Program, d defined, k kept) (string, error) {
	if p.Binary == d.own.member() {
		return "", nil
	}
	if d.drop != "" && p.Binary == d.current.member() {
		return d.drop, nil
	}
	if text, ok := k.DropIns[p.Binary]; ok {
		return text, nil
	}
	version, err := x.Stage(ctx, p)
	if err != nil {
		return "", err
	}
	command, err := d.own.with(p.Binary, words(version))
	if err != nil {
		return "", err
	}
	return dropIn(command), nil
}

// put makes text the drop-in, "" none, and lets systemd see it.
func (x *systemd) put(ctx context.Context, text string) error {
	var err error
	if text == "" {
		err = x.shell.removeFile(ctx, x.file(swapName))
	} else {
		err = x.shell.writeFile(ctx, x.file(swapName), []byte(text))
	}
	if err != nil {
		return err
	}
	return x.reload(ctx)
}

// verify asks systemd what it would start now, and puts back what was there if that is
// not p: a drop-in that sorts behind ours has the last word.
func (x *systemd) verify(ctx context.Context, p Program, before defined) error {
	u, err := x.show(ctx)
	if err != nil {
		return err
	}
	shown := shownPath(u["ExecStart"])
	if shown == p.Binary || (before.own.to != 0 && strings.Contains(u["ExecStart"], p.Binary+" ")) {
		return nil
	}
	if err := x.put(ctx, before.drop); err != nil {
		return err
	}
	return fmt.Errorf("swap to %s: systemd would start %q still: a drop-in of %s behind %s sets ExecStart: rename it to sort before (%s)", p, shown, x.unit, swapName, u["DropInPaths"])
}

// Start starts the unit and waits until its program runs.
func (x *systemd) Start(ctx context.Context) error {
	u, err := x.show(ctx)
	if err != nil {
		return err
	}
	if u["ActiveState"] == "deactivating" {
		return fmt.Errorf("start %s: %w: it is being stopped: wait for it, and run again", x.unit, ErrStillRunning)
	}
	if u.stopped() {
		if err := x.noMorePatience(ctx); err != nil {
			return err
		}
		if u["NeedDaemonReload"] == "yes" {
			if err := x.reload(ctx); err != nil {
				return err
			}
		}
		// Without this, a unit that was restarted too often would not be started again.
		if _, err := x.shell.run(ctx, "systemctl", "reset-failed", "--", x.unit); err != nil && ctx.Err() != nil {
			return err
		}
		if _, err := x.shell.run(ctx, "systemctl", "start", "--no-block", "--", x.unit); err != nil {
			return fmt.Errorf("start %s: %w", x.unit, err)
		}
	}
	err = until(ctx, func() (bool, error) {
		if u, err = x.show(ctx); err != nil {
			return false, err
		}
		if pid := u.pid(); pid != "" {
			// Between fork and exec it is systemd still.
			exe, _ := x.process(ctx, pid, "")
			return exe != "" && !slices.Contains([]string{"systemd", "systemd-executor"}, path.Base(exe)), nil
		}
		if u["ActiveState"] == "failed" || u["SubState"] == "auto-restart" || (u["ActiveState"] == "inactive" && u["Job"] == "") {
			return false, fmt.Errorf("start %s: it ended at once (%s %s)%s: see journalctl -u %s", x.unit, u["Result"], u["ExecMainStatus"], x.lastWords(ctx, u), x.unit)
		}
		return false, nil
	})
	if errors.Is(err, errNotYet) || (err != nil && ctx.Err() != nil) {
		return fmt.Errorf("start %s: it does not run yet (%s %s): see journalctl -u %s, and run again", x.unit, u["ActiveState"], u["SubState"], x.unit)
	}
	return err
}

// lastWords is the last line that the member wrote, for an error.
func (x *systemd) lastWords(ctx context.Context, u loaded) string {
	lines, err := x.journal(ctx, u, 1, false)
	if err != nil || len(lines) == 0 {
		return ""
	}
	return ", its last line: " + clip(lines[0])
}

// Logs asks the journal for what this start of the unit wrote, and what systemd says of it.
func (x *systemd) Logs(ctx context.Context, lines int) ([]string, error) {
	if lines <= 0 {
		return nil, nil
	}
	u, err := x.show(ctx)
	if err != nil {
		return nil, err
	}
	return x.journal(ctx, u, lines, true)
}

func (x *systemd) journal(ctx context.Context, u loaded, lines int, supervisor bool) ([]string, error) {
	argv := []string{"journalctl", "--no-pager", "-q", "-o", "cat", "-n", strconv.Itoa(lines)}
	switch id := u["InvocationID"]; {
	case id == "": // a systemd before 232
		argv = append(argv, "-u", x.unit)
	case supervisor:
		argv = append(argv, "_SYSTEMD_INVOCATION_ID="+id, "+", "INVOCATION_ID="+id)
	default:
		argv = append(argv, "_SYSTEMD_INVOCATION_ID="+id)
	}
	out, err := x.shell.run(ctx, argv...)
	if err != nil {
		return nil, fmt.Errorf("read the journal of %s: %w", x.unit, err)
	}
	return lastLines(out, lines), nil
}

// Finish forgets earlier drop-ins; the one in use stays.
func (x *systemd) Finish(ctx context.Context) error {
	return x.shell.removeFile(ctx, x.file(keptName))
}

// Close ends the connection.
func (x *systemd) Close() error { return x.shell.close() }
