package upgrade

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"theseus/upgrade/plan"
)

const rehearseUsage = `NAME
  theseus upgrade rehearse - the same plan on a copy of the cluster, before production meets it

USAGE
  theseus upgrade rehearse -f INVENTORY [flags]

  A backup is taken and proven (or --backup names one). Each member is restored from it
  on a loopback address of this machine, with its own name, program and flags, and the
  plan is carried out there, to the end, under load; then one member is taken back and
  forth. No acknowledged write may be lost, no request fail, no hash differ. Each failure
  is told with its step and what it would mean in production.

  The real cluster is read and not changed. Everything that was made is removed at the
  end, also on Ctrl-C, but the backup stays.

FLAGS
  -f FILE             the inventory (default upgrade.yaml)
  --backup ID         use this backup of the archive
  --from-binary PATH  the program that the copies start with, where the members' own are
                      not on this machine
  --to-binary PATH    the target's program, where the inventory names an image
  --keep              leave the copy's files
  --timeout TIME      give up after so long (default 30m)
  -o FORMAT           text (default; a live table on a terminal) or json

EXIT CODES
  0 it went well   1 there was no rehearsal   2 usage   3 a failure is predicted, or a finding blocks

EXAMPLE
  theseus upgrade rehearse -f prod.yaml --from-binary /opt/etcd-3.4/etcd
`

func rehearseVerb(args []string, stdout, stderr io.Writer) int {
	o := RehearseOptions{Out: stdout}
	fs := flag.NewFlagSet("rehearse", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	file := fs.String("f", "upgrade.yaml", "")
	fs.StringVar(&o.Backup, "backup", "", "")
	fs.StringVar(&o.From, "from-binary", "", "")
	fs.StringVar(&o.To, "to-binary", "", "")
	fs.BoolVar(&o.Keep, "keep", false, "")
	limit := fs.Duration("timeout", 30*time.Minute, "")
	fs.StringVar(&o.Format, "o", "text", "")
	err := fs.Parse(args)
	switch {
	case err == flag.ErrHelp:
		_, _ = io.WriteString(stdout, rehearseUsage)
		return 0
	case err == nil && o.Format != "text" && o.Format != "json":
		err = fmt.Errorf("-o %q: text or json", o.Format)
	case err == nil && fs.NArg() > 0:
		err = fmt.Errorf("%q: there is nothing to say beside the flags", fs.Arg(0))
	}
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "theseus upgrade rehearse: %v\nTry 'theseus upgrade rehearse --help'.\n", err)
		return 2
	}
	fail := func(err error) int {
		_, _ = fmt.Fprintf(stderr, "theseus upgrade rehearse: %v\n", err)
		return 1
	}
	if o.Inventory, err = LoadInventory(*file); err != nil {
		return fail(err)
	}
	if o.Format == "text" && isTerminal(stdout) {
		o.Format = "live"
	}
	ctx, stop := untilStopped()
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, *limit, fmt.Errorf("the rehearsal was not over after %s: --timeout gives it longer", *limit))
	defer cancel()
	r, err := Rehearse(ctx, o)
	if errors.Is(err, context.Canceled) {
		err = errors.New("interrupted; what was made is removed")
	}
	if err != nil {
		return fail(err)
	}
	if o.Format == "json" {
		err = json.NewEncoder(stdout).Encode(struct { // the last of the lines
			Event string `json:"event"`
			Rehearsal
		}{"rehearsal", r})
	} else {
		err = r.show(stdout)
	}
	switch {
	case err != nil:
		return fail(err)
	case !r.Passed:
		return 3
	}
	return 0
}

// cannotShow is what no copy made from a backup can tell.
const cannotShow = `  A backup has no raft log: what only the log holds (v2 entries of old health checks on the way to 3.6, members' attributes
  on the way to 3.7), disks, networks, certificates and the number of clients are as they are in production only. check
  asks the real members about the first; what it found there:`

// show writes the end of a rehearsal for people.
func (r Rehearsal) show(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\nrehearsal of %s: %s → %s\n", r.Cluster, r.From, r.To)
	switch {
	case r.Steps == 0 && plan.Blocked(r.Remarks):
		b.WriteString("  there is no plan to rehearse: something blocks it\n")
	case r.Steps == 0:
		fmt.Fprintf(&b, "  %s runs %s: there is nothing to rehearse\n", r.Cluster, r.To)
	}
	if l := r.Load; l != nil {
		fmt.Fprintf(&b, "  load         %d requests, %d failed, longest gap in writes %s, %d of %d acknowledged writes lost, watcher missed %d\n",
			l.Requests, l.Failed, seconds(l.LongestGap), l.Lost, l.Acked, l.Missed)
		for _, f := range r.Felt {
			fmt.Fprintf(&b, "  expected     %s\n", f)
		}
	}
	if r.Back != "" {
		fmt.Fprintf(&b, "  way back     %s\n", r.Back+map[bool]string{true: "", false: " went back and forth"}[strings.Contains(r.Back, " ")])
	}
	for _, u := range r.Unlike {
		fmt.Fprintf(&b, "  unlike       %s\n", u)
	}
	fmt.Fprintf(&b, "\nwhat this cannot show\n%s\n\n", cannotShow)
	told := slices.DeleteFunc(slices.Clone(r.Remarks), func(m plan.Remark) bool { return m.Severity == plan.Info })
	if err := showRemarks(&b, told); err != nil {
		return err
	}
	for i, p := range r.Predictions {
		fmt.Fprintf(&b, "\nprediction %d: %s\n  seen:   %s\n", i+1, p.Step, p.Seen)
		for _, l := range p.Log {
			fmt.Fprintf(&b, "  log:    %s\n", l)
		}
		fmt.Fprintf(&b, "  means:  %s\n", p.Means)
	}
	switch {
	case r.Passed && r.Steps > 0:
		fmt.Fprintf(&b, "\nThe rehearsal went well in %s: %d steps on a copy of %d members from backup %s.\n", seconds(r.Wall), r.Steps, len(r.Members), r.Backup)
	case len(r.Predictions) > 0:
		fmt.Fprintf(&b, "\nThe rehearsal failed: %d failures are predicted. Nothing in production was touched.\n", len(r.Predictions))
	case !r.Passed:
		b.WriteString("\nA finding blocks the real cluster. Nothing in production was touched.\n")
	}
	if r.Kept != "" {
		fmt.Fprintf(&b, "kept: %s\n", r.Kept)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
