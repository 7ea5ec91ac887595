package upgrade

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"theseus/internal/vfs"
	"theseus/upgrade/host"
	"theseus/upgrade/plan"
)

const applyUsage = `NAME
  theseus upgrade apply - carry the plan out, or go on with the run that was begun

USAGE
  theseus upgrade apply -f INVENTORY [flags]

  The cluster is checked, planned and moved, one member at a time. A backup is taken and
  proven first. Each step stands in the journal before it is done and after it, so that
  apply may be killed at any instruction and run again: it goes on where it stood. A step
  that fails is undone. Ctrl-C brings the member that is down back and stops; a second
  one stops at once.

FLAGS
  -f FILE       the inventory (default upgrade.yaml)
  --plan FILE   the plan to carry out, as 'plan -o json' wrote it; else one is made now
  --yes         go beyond the point from which only the backup leads back without asking
  -o FORMAT     text (default; a live table on a terminal) or json, one object a line

EXIT CODES
  0 done, or nothing to do   1 a step failed or the run was stopped   2 usage   3 blocked: a finding, or a question that nobody answered

EXAMPLE
  theseus upgrade apply -f prod.yaml
`

const rollbackUsage = `NAME
  theseus upgrade rollback - walk the journal of a run back

USAGE
  theseus upgrade rollback -f INVENTORY [flags]

  The members that were moved get their old program back, one at a time, the last one
  first, with the same gates; the cluster version is lowered before that where the old
  program needs it. Where only the backup leads back nothing is done, and the commands
  are named. It may be killed and run again.

FLAGS
  -f FILE        the inventory (default upgrade.yaml)
  --member NAME  take one member back; 'apply' moves it again
  -o FORMAT      text (default; a live table on a terminal) or json, one object a line

EXIT CODES
  0 done, or nothing to take back   1 a step failed or the run was stopped   2 usage   3 there is no way back but the backup

EXAMPLE
  theseus upgrade rollback -f prod.yaml --member s2
`

// runVerb is what apply and rollback have in common.
type runVerb struct {
	name, usage    string
	stdout, stderr io.Writer
	file, format   string
	planFile       string
	member         string
	yes            bool
	inv            *Inventory
}

// open reads the flags and the inventory. A code of 0 or above ends the verb.
func (v *runVerb) open(args []string) int {
	fs := flag.NewFlagSet(v.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&v.file, "f", "upgrade.yaml", "")
	fs.StringVar(&v.format, "o", "text", "")
	switch v.name {
	case "apply":
		fs.StringVar(&v.planFile, "plan", "", "")
		fs.BoolVar(&v.yes, "yes", false, "")
	case "rollback":
		fs.StringVar(&v.member, "member", "", "")
		fs.BoolVar(&v.yes, "yes", false, "")
	}
	err := fs.Parse(args)
	if err == flag.ErrHelp {
		_, _ = io.WriteString(v.stdout, v.usage)
		return 0
	}
	if err == nil && v.format != "text" && v.format != "json" {
		err = fmt.Errorf("-o %q: text or json", v.format)
	}
	if err == nil && fs.NArg() > 0 {
		err = fmt.Errorf("%q: there is nothing to say beside the flags", fs.Arg(0))
	}
	if err != nil {
		_, _ = fmt.Fprintf(v.stderr, "theseus upgrade %s: %v\nTry 'theseus upgrade %s --help'.\n", v.name, err, v.name)
		return 2
	}
	if v.inv, err = LoadInventory(v.file); err != nil {
		return v.fail(err)
	}
	return -1
}

func (v *runVerb) fail(err error) int {
	_, _ = fmt.Fprintf(v.stderr, "theseus upgrade %s: %v\n", v.name, err)
	return 1
}

// interruptible ends ctx at the first signal, and the program at the second: the journal
// is right at every instruction. A terminal that went away is no second signal, and what
// is written to it is lost and stops nothing.
func (v *runVerb) interruptible() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	signal.Ignore(syscall.SIGPIPE)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for ctx.Err() == nil {
			if _, ok := <-signals; !ok {
				return
			}
			_, _ = fmt.Fprintf(v.stderr, "\ntheseus upgrade %s: stopping after the member that is being moved; once more ends at once\n", v.name)
			cancel()
		}
		for s := range signals {
			if s != syscall.SIGHUP {
				os.Exit(1)
			}
		}
	}()
	return ctx, func() { signal.Stop(signals); close(signals); <-gone; cancel() }
}

// options are those of a run on real hosts.
func (v *runVerb) options(hosts map[string]host.Executor) RunOptions {
	o := RunOptions{Inventory: v.inv, Hosts: hosts, Dir: v.inv.State, File: v.file, Out: v.stdout, Format: v.format, Yes: v.yes}
	if v.format == "text" && isTerminal(v.stdout) {
		o.Format = "live"
		if isTerminal(os.Stdin) {
			o.Ask = v.ask
		}
	}
	o.Backup = backupOf(v.inv)
	return o
}

func (v *runVerb) ask(question string) bool {
	_, _ = fmt.Fprintf(v.stdout, "%s [yes/no] ", question)
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	return err == nil && strings.TrimSpace(line) == "yes"
}

// result shows how a run ended and returns the exit code.
func (v *runVerb) result(s Summary, err error) int {
	var stop *Stop
	if err != nil && !errors.As(err, &stop) {
		return v.fail(err)
	}
	if v.format == "json" {
		newScreen(v.stdout, "json").json(event{Event: "summary", Summary: &s})
	} else if err := s.show(v.stdout); err != nil {
		return v.fail(err)
	}
	switch {
	case stop == nil:
		return 0
	case v.format != "json":
		_, _ = fmt.Fprintf(v.stderr, "\ntheseus upgrade %s: stopped\n%s", v.name, stop.Message())
	}
	if stop.Block {
		return 3
	}
	return 1
}

func applyVerb(args []string, stdout, stderr io.Writer) int {
	v := &runVerb{name: "apply", usage: applyUsage, stdout: stdout, stderr: stderr}
	if code := v.open(args); code >= 0 {
		return code
	}
	ctx, done := v.interruptible()
	defer done()
	hosts, err := v.inv.Hosts()
	if err != nil {
		return v.fail(err)
	}
	defer closeHosts(hosts)
	o := v.options(hosts)
	going, err := unfinished(v.inv.State)
	if err != nil {
		return v.fail(err)
	}
	if v.planFile != "" {
		if o.Plan, err = loadPlan(v.planFile); err != nil {
			return v.fail(err)
		}
		if o.Plan.Cluster != v.inv.Cluster {
			return v.fail(fmt.Errorf("the plan %s is of cluster %q, the inventory of %q", v.planFile, o.Plan.Cluster, v.inv.Cluster))
		}
	}
	if !going {
		p, code := v.decide(ctx, hosts, o.Plan)
		if code >= 0 {
			return code
		}
		o.Plan = p
	}
	s, err := Run(ctx, o)
	return v.result(s, err)
}

// decide checks the cluster and makes the plan, or holds the given one against it. A
// code of 0 or above ends the verb.
func (v *runVerb) decide(ctx context.Context, hosts map[string]host.Executor, given plan.Plan) (plan.Plan, int) {
	f, err := Gather(ctx, v.inv, hosts)
	if err != nil {
		return given, v.fail(err)
	}
	p, remarks := plan.Make(f)
	for _, m := range plan.Check(f) {
		if !slices.ContainsFunc(remarks, func(o plan.Remark) bool { return o.Code == m.Code && o.Member == m.Member }) {
			remarks = append(remarks, m)
		}
	}
	w := v.stdout
	if v.format == "json" {
		w = v.stderr
	}
	if plan.Blocked(remarks) {
		if err := showRemarks(w, remarks); err != nil {
			return p, v.fail(err)
		}
		_, _ = fmt.Fprintf(v.stderr, "theseus upgrade apply: something blocks; nothing was done. Mend it, 'theseus upgrade check -f %s' shows it again\n", v.file)
		return p, 3
	}
	if len(given.Steps) > 0 {
		if !sameSteps(given, p) {
			_, _ = fmt.Fprintf(v.stderr, "theseus upgrade apply: the cluster is not as it was when %s was made; nothing was done. Make the plan again and read it: theseus upgrade plan -f %s -o json\n", v.planFile, v.file)
			return p, 3
		}
		p = given
	}
	if len(p.Steps) == 0 {
		_, _ = fmt.Fprintf(w, "%s runs %s: there is nothing to do\n", v.inv.Cluster, p.To)
		return p, 0
	}
	if v.inv.Backup.Archive == "" {
		_, _ = fmt.Fprintln(v.stderr, "theseus upgrade apply: there is no backup without an archive; nothing was done. Add to the inventory: backup: {archive: \"dir:/var/backups/etcd\"}")
		return p, 3
	}
	if err := showPlan(w, p, remarks); err != nil {
		return p, v.fail(err)
	}
	_, _ = fmt.Fprintln(w)
	return p, -1
}

func closeHosts(hosts map[string]host.Executor) {
	for _, h := range hosts {
		_ = h.Close() // the member is left as it is
	}
}

// unfinished says whether the state directory holds a run that is not over.
func unfinished(dir string) (bool, error) {
	recs, _, err := readJournal(vfs.OS, dir)
	if err != nil || len(recs) == 0 {
		return false, err
	}
	return replay(recs).ended == "", nil
}

func loadPlan(path string) (p plan.Plan, err error) {
	text, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return p, fmt.Errorf("read the plan: %w", err)
	}
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return p, fmt.Errorf("plan %s: %w", path, err)
	}
	if p.Format != 1 {
		return p, fmt.Errorf("plan %s: format %d, this program knows 1", path, p.Format)
	}
	return p, nil
}

func rollbackVerb(args []string, stdout, stderr io.Writer) int {
	v := &runVerb{name: "rollback", usage: rollbackUsage, stdout: stdout, stderr: stderr}
	if code := v.open(args); code >= 0 {
		return code
	}
	ctx, done := v.interruptible()
	defer done()
	hosts, err := v.inv.Hosts()
	if err != nil {
		return v.fail(err)
	}
	defer closeHosts(hosts)
	s, err := Rollback(ctx, v.options(hosts), v.member)
	return v.result(s, err)
}
