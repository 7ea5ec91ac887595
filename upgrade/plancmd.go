package upgrade

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"theseus/upgrade/host"
	"theseus/upgrade/plan"
)

const planUsage = `NAME
  theseus upgrade plan - the ordered list of steps to the target, with the way back at each

USAGE
  theseus upgrade plan -f INVENTORY [flags]

  Every member and its host is asked, the target is put in place beside what runs, and
  nothing else is changed. The same facts give the same plan: it can be read, checked
  in, and run by 'theseus upgrade apply'. Below it stands what 'theseus upgrade check'
  finds (on stderr with -o json).

FLAGS
  -f FILE      the inventory (default upgrade.yaml)
  -o FORMAT    text (default) or json

EXIT CODES
  0 there is a plan, or nothing is to be done   1 failed   2 usage   3 a finding blocks

EXAMPLE
  theseus upgrade plan -f prod.yaml -o json > prod-plan.json
`

// verb is what check and plan have in common: flags, the inventory and the facts.
type verb struct {
	name, usage string
	stdout      io.Writer
	stderr      io.Writer
	format      string
	inv         *Inventory
}

// open reads the flags and the inventory. A code of 0 or above ends the verb.
func (v *verb) open(args []string) int {
	fs := flag.NewFlagSet(v.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	file := fs.String("f", "upgrade.yaml", "")
	fs.StringVar(&v.format, "o", "text", "")
	err := fs.Parse(args)
	if err == flag.ErrHelp {
		_, _ = io.WriteString(v.stdout, v.usage)
		return 0
	}
	if err == nil && !slices.Contains([]string{"text", "json"}, v.format) {
		err = fmt.Errorf("-o %q: text or json", v.format)
	}
	if err == nil && fs.NArg() > 0 {
		err = fmt.Errorf("%q: there is nothing to say beside the flags", fs.Arg(0))
	}
	if err != nil {
		return v.fail(2, fmt.Errorf("%w\nTry 'theseus upgrade %s --help'", err, v.name))
	}
	if v.inv, err = LoadInventory(*file); err != nil {
		return v.fail(1, err)
	}
	return -1
}

func (v *verb) fail(code int, err error) int {
	_, _ = fmt.Fprintf(v.stderr, "theseus upgrade %s: %v\n", v.name, err)
	return code
}

// facts asks the cluster and, if every member has one, the hosts.
func (v *verb) facts(ctx context.Context) (plan.Facts, error) {
	var hosts map[string]host.Executor
	if slices.ContainsFunc(v.inv.Members, func(m InventoryMember) bool { return m.Host.Kind != "" }) {
		var err error
		if hosts, err = v.inv.Hosts(); err != nil {
			return plan.Facts{}, err
		}
		defer func() {
			for _, h := range hosts {
				_ = h.Close()
			}
		}()
	}
	return Gather(ctx, v.inv, hosts)
}

// untilStopped is a context that ends when the operator says so.
func untilStopped() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}

func planVerb(args []string, stdout, stderr io.Writer) int {
	v := &verb{name: "plan", usage: planUsage, stdout: stdout, stderr: stderr}
	if code := v.open(args); code >= 0 {
		return code
	}
	ctx, stop := untilStopped()
	defer stop()
	f, err := v.facts(ctx)
	if err != nil {
		return v.fail(1, err)
	}
	p, _ := plan.Make(f)
	remarks := plan.Check(f)
	if v.format == "json" {
		err = encode(stdout, p)
		if err == nil && len(remarks) > 0 {
			err = showRemarks(stderr, remarks)
		}
	} else {
		err = showPlan(stdout, p, remarks)
	}
	switch {
	case err != nil:
		return v.fail(1, err)
	case plan.Blocked(remarks):
		return 3
	}
	return 0
}

// ways are the ways back in words.
var ways = map[plan.WayBack]string{
	plan.NothingDone: "nothing to undo",
	plan.SwapBack:    "put the old program back, one member at a time",
	plan.LowerFirst:  "lower the cluster version, then put the old program back",
	plan.Restore:     "only the backup: what is written from here on would be lost",
}

// showPlan prints a plan as a numbered list; the way back is told where it changes.
func showPlan(w io.Writer, p plan.Plan, remarks []plan.Remark) error {
	if len(p.Steps) > 0 {
		_, _ = fmt.Fprintf(w, "%s: from %s to %s in %d steps\n", p.Cluster, p.From, p.To, len(p.Steps))
	}
	way := plan.WayBack("")
	for i, s := range p.Steps {
		if s.WayBack != way {
			way = s.WayBack
			_, _ = fmt.Fprintf(w, "\n  way back: %s\n", ways[way])
		}
		mark := ""
		if s.Point {
			mark = "   << no way back from here but the backup"
		}
		_, _ = fmt.Fprintf(w, "%4d. %-40s %s%s\n", i+1, s.Text(), s.Why, mark)
	}
	if len(p.Steps) > 0 && len(remarks) > 0 {
		_, _ = fmt.Fprintln(w)
	}
	return showRemarks(w, remarks)
}

// showRemarks prints findings with what to do about each. What is the same at several
// members is said once.
func showRemarks(w io.Writer, remarks []plan.Remark) error {
	n := map[plan.Severity]int{}
	said := map[plan.Remark]bool{}
	for _, r := range remarks {
		n[r.Severity]++
		one := r
		one.Member = ""
		if said[one] {
			continue
		}
		said[one] = true
		var of []string
		for _, o := range remarks {
			if o.Code == r.Code && o.Severity == r.Severity && o.Why == r.Why && o.Mend == r.Mend {
				of = append(of, cmp.Or(o.Member, "cluster"))
			}
		}
		_, _ = fmt.Fprintf(w, "%s: %s %s\n    why:  %s\n    mend: %s\n\n", strings.Join(of, ", "), r.Severity, r.Code, r.Why, r.Mend)
	}
	_, err := fmt.Fprintf(w, "%d block, %d warn, %d info\n", n[plan.Block], n[plan.Warn], n[plan.Info])
	return err
}
