package upgrade

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"theseus/internal/vfs"
	"theseus/upgrade/host"
	"theseus/upgrade/plan"
)

const statusUsage = `NAME
  theseus upgrade status - where the run stands, and how the members are

USAGE
  theseus upgrade status -f INVENTORY [flags]

  It reads the journal and asks the members; nothing is changed, and a run that goes on
  in another terminal is not disturbed.

FLAGS
  -f FILE     the inventory (default upgrade.yaml)
  -o FORMAT   text (default) or json

EXIT CODES
  0 shown   1 failed   2 usage
`

// Status is what status tells.
type Status struct {
	State   string        `json:"state"` // none, running, unfinished, rolling back, done, rolled back
	Done    int           `json:"done"`
	Of      int           `json:"of"`
	At      string        `json:"at,omitempty"`     // the step that is being done, or would be next
	Failed  string        `json:"failed,omitempty"` // the last failure, if nothing went well after it
	Next    string        `json:"next,omitempty"`
	Members []memberEvent `json:"members"`
	Summary *Summary      `json:"summary,omitempty"`
}

func statusVerb(args []string, stdout, stderr io.Writer) int {
	v := &runVerb{name: "status", usage: statusUsage, stdout: stdout, stderr: stderr}
	if code := v.open(args); code >= 0 {
		return code
	}
	w, err := newLiveWire(v.inv)
	if err != nil {
		return v.fail(err)
	}
	defer w.close()
	views := make([]view, len(v.inv.Members))
	each(len(views), func(i int) { views[i] = w.look(context.Background(), v.inv.Members[i].Name) })
	if hosts, err := v.inv.Hosts(); err == nil { // without them the wire tells enough
		hostSays(views, hosts)
		closeHosts(hosts)
	}
	s, p, err := readStatus(vfs.OS, v.inv.State, v.file)
	if err != nil {
		return v.fail(err)
	}
	s.Members = memberEvents(views)
	if v.format == "json" {
		err = encode(stdout, s)
	} else {
		err = s.show(stdout, p, views)
	}
	if err != nil {
		return v.fail(err)
	}
	return 0
}

// hostSays puts what the host says of a member that does not answer.
func hostSays(views []view, hosts map[string]host.Executor) {
	each(len(views), func(i int) {
		v := &views[i]
		if v.Err == "" || hosts[v.Name] == nil {
			return
		}
		_ = bounded(context.Background(), hostTimeout, func(ctx context.Context) error {
			st, err := hosts[v.Name].Inspect(ctx)
			if err == nil && !st.Running {
				v.Err = "it does not run; " + st.Program.String() + " is what would be started"
			}
			return err
		})
	})
}

// readStatus reads a run without disturbing it.
func readStatus(fs vfs.FS, dir, file string) (s Status, p plan.Plan, err error) {
	recs, _, err := readJournal(fs, dir)
	if err != nil {
		return s, p, err
	}
	command := func(verb string) string { return "theseus upgrade " + verb + " -f " + file }
	if len(recs) == 0 {
		return Status{State: "none", Next: command("apply")}, p, nil
	}
	if p, err = readPlan(fs, dir, recs); err != nil {
		return s, p, err
	}
	now := replay(recs)
	steps := p.Steps
	s.State, s.Next = "unfinished", command("apply")+" goes on, "+command("rollback")+" takes it back"
	switch {
	case now.ended != "":
		s.State, s.Next = now.ended, ""
	case now.back != nil && now.back.Cause == "":
		s.State, s.Next, steps = "rolling back", command("rollback")+" goes on with it", now.back.Steps
	case now.back != nil:
		s.State, s.Next, steps = "undoing "+now.back.Cause, command("apply")+" goes on with it", now.back.Steps
	}
	for _, st := range steps {
		if now.done[st.ID] {
			s.Done++
		} else if s.At == "" && now.ended == "" {
			s.At = st.ID + ": " + st.Why
		}
	}
	s.Of = len(steps)
	if held(fs, dir) {
		s.State, s.Next = s.State+", and being worked on now", ""
	}
	if now.failed != nil {
		s.Failed = now.failed.Step + ": " + now.failed.Text
	}
	if text, err := vfs.ReadFile(fs, filepath.Join(dir, summaryName)); err == nil {
		sum := new(Summary)
		if json.Unmarshal(text, sum) == nil {
			s.Summary = sum
		}
	}
	return s, p, nil
}

// held says whether a run holds the lock.
func held(fs vfs.FS, dir string) bool {
	j, err := openJournalLock(fs, dir)
	if err != nil {
		return true
	}
	_ = j.Close() // the lock goes with it
	return false
}

func (s Status) show(w io.Writer, p plan.Plan, views []view) error {
	var b strings.Builder
	if s.State == "none" {
		fmt.Fprintf(&b, "there is no run\n")
	} else {
		fmt.Fprintf(&b, "%s: %s → %s: %s, %d of %d steps done\n", p.Cluster, p.From, p.To, s.State, s.Done, s.Of)
	}
	for _, l := range [][2]string{{"at:", s.At}, {"failed:", s.Failed}, {"next:", s.Next}} {
		if l[1] != "" {
			fmt.Fprintf(&b, "%-8s %s\n", l[0], l[1])
		}
	}
	b.WriteString("\n" + strings.Join(memberTable(views, plan.Step{}), "\n") + "\n")
	if _, err := io.WriteString(w, b.String()); err != nil || s.Summary == nil {
		return err
	}
	return s.Summary.show(w)
}
