package upgrade

import (
	"context"
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
	"time"

	"theseus/upgrade/plan"
)

const checkUsage = `NAME
  theseus upgrade check - ask every member whether the cluster can be moved now

USAGE
  theseus upgrade check -f INVENTORY [flags]

  Every member answers for itself, side by side, and below stands what was found with
  what to do about each. Without a target in the inventory only the cluster is looked
  at; with hosts, the target is put in place beside what runs and asked for its version.
  Nothing is written into the cluster but one key with a lease, which is removed again.

FLAGS
  -f FILE      the inventory (default upgrade.yaml)
  -o FORMAT    text (default) or json

EXIT CODES
  0 nothing blocks   1 failed   2 usage   3 a finding blocks

EXAMPLE
  theseus upgrade check -f prod.yaml
`

func checkVerb(args []string, stdout, stderr io.Writer) int {
	v := &verb{name: "check", usage: checkUsage, stdout: stdout, stderr: stderr}
	if code := v.open(args); code >= 0 {
		return code
	}
	ctx, stop := untilStopped()
	defer stop()
	f, err := v.facts(ctx)
	if err != nil {
		return v.fail(1, err)
	}
	remarks := append(append([]plan.Remark{}, v.canary(ctx, f)...), plan.Check(f)...)
	if v.format == "json" {
		err = encode(stdout, map[string]any{"facts": f, "remarks": remarks, "blocks": plan.Blocked(remarks)})
	} else if err = showMembers(stdout, f); err == nil {
		err = showRemarks(stdout, remarks)
	}
	switch {
	case err != nil:
		return v.fail(1, err)
	case plan.Blocked(remarks):
		return 3
	}
	return 0
}

// canary writes one key with a lease, reads it, watches it and removes it, through the
// members that answer. A cluster that cannot do it anyway is not asked.
func (v *verb) canary(ctx context.Context, f plan.Facts) []plan.Remark {
	var eps []string
	for _, m := range f.Members {
		if m.Err == "" && m.Leader != 0 {
			eps = append(eps, m.Endpoint)
		}
		if m.Auth && !f.Login {
			return nil
		}
	}
	if len(eps) == 0 {
		return nil
	}
	c, err := v.inv.Client(eps...)
	if err == nil {
		defer func() { _ = c.Close() }()
		err = bounded(ctx, askTimeout, func(ctx context.Context) error { return touch(ctx, c, canaryPrefix(v.inv.Cluster)+"check") })
	}
	if err == nil {
		return nil
	}
	h, _ := plan.PreflightLookup("CANARY")
	return []plan.Remark{{Code: h.Code, Severity: h.Severity, Why: "the canary did not pass: " + oneLine(err), Mend: h.Mend}}
}

// showMembers prints the members side by side: a row for each thing asked, a column for
// each member.
func showMembers(w io.Writer, f plan.Facts) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range columns {
		cells := []string{row.name}
		seen := row.name == "member"
		for _, m := range f.Members {
			cell := "?"
			switch {
			case row.name == "member" || row.name == "answers":
				cell = row.cell(f, m)
			case m.Err == "" || row.dead:
				cell = row.cell(f, m)
			}
			seen = seen || cell != "" && cell != "?"
			if cell == "" {
				cell = "-"
			}
			cells = append(cells, cell)
		}
		if seen {
			_, _ = fmt.Fprintln(t, strings.Join(cells, "\t"))
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w)
	return err
}

// columns are the rows of the table: what is told of a member, empty if not known.
// Rows with dead are told of members that do not answer, too.
var columns = []struct {
	name string
	dead bool
	cell func(f plan.Facts, m plan.Member) string
}{
	{"member", true, func(_ plan.Facts, m plan.Member) string { return m.Name }},
	{"answers", true, func(_ plan.Facts, m plan.Member) string { return yes(m.Err == "") }},
	{"runs", false, func(_ plan.Facts, m plan.Member) string { return m.Runs() }},
	{"cluster version", false, func(_ plan.Facts, m plan.Member) string { return minorOf(m.Cluster.IsZero(), m.Cluster.MinorString()) }},
	{"storage version", false, func(_ plan.Facts, m plan.Member) string { return minorOf(m.Storage.IsZero(), m.Storage.MinorString()) }},
	{"role", false, func(_ plan.Facts, m plan.Member) string { return role(m) }},
	{"healthy", false, func(_ plan.Facts, m plan.Member) string { return yes(m.Healthy) }},
	{"term", false, func(_ plan.Facts, m plan.Member) string { return fmt.Sprint(m.Term) }},
	{"committed", false, func(_ plan.Facts, m plan.Member) string { return fmt.Sprint(m.Index) }},
	{"behind", false, func(f plan.Facts, m plan.Member) string { return fmt.Sprint(f.Lag(m)) }},
	{"revision", false, func(_ plan.Facts, m plan.Member) string { return fmt.Sprint(m.Revision) }},
	{"hash", false, func(_ plan.Facts, m plan.Member) string {
		if m.Hash == nil {
			return ""
		}
		return fmt.Sprintf("%08x", m.Hash.Hash)
	}},
	{"members seen", false, func(_ plan.Facts, m plan.Member) string { return fmt.Sprint(len(m.Sees)) }},
	{"alarms", false, func(_ plan.Facts, m plan.Member) string {
		var names []string
		for _, a := range m.Alarms {
			names = append(names, a.Name)
		}
		return strings.Join(names, ",")
	}},
	{"database", false, func(_ plan.Facts, m plan.Member) string { return plan.Size(m.DBSize) }},
	{"quota", false, func(_ plan.Facts, m plan.Member) string { return sizeOf(m.Quota) }},
	{"disk free", true, func(_ plan.Facts, m plan.Member) string { return sizeOf(m.Free) }},
	{"leases", false, func(_ plan.Facts, m plan.Member) string { return fmt.Sprint(m.Leases) }},
	{"writes/s", false, func(_ plan.Facts, m plan.Member) string { return fmt.Sprint(math.Round(m.WriteRate)) }},
	{"auth", false, func(_ plan.Facts, m plan.Member) string { return yes(m.Auth) }},
	{"clock", false, func(_ plan.Facts, m plan.Member) string { return m.ClockOffset.String() }},
	{"client cert until", true, func(_ plan.Facts, m plan.Member) string { return dateOf(m.ClientCert) }},
	{"peer cert until", true, func(_ plan.Facts, m plan.Member) string { return dateOf(m.PeerCert) }},
	{"program", true, func(_ plan.Facts, m plan.Member) string { return m.Image + m.Binary }},
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func role(m plan.Member) string {
	switch {
	case m.ID == m.Leader && m.ID != 0:
		return "leader"
	case m.Learner:
		return "learner"
	}
	return "follower"
}

func minorOf(unknown bool, text string) string {
	if unknown {
		return ""
	}
	return text
}

func sizeOf(n int64) string {
	if n == 0 {
		return ""
	}
	return plan.Size(n)
}

func dateOf(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.DateOnly)
}
