package upgrade

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"theseus/internal/vfs"
	"theseus/upgrade/plan"
)

// Summary is what a run did, kept as summary.json beside its journal. The parts of a run
// that was taken up again are added up; what a killed part measured is lost.
type Summary struct {
	Cluster string          `json:"cluster"`
	From    string          `json:"from"`
	To      string          `json:"to"`
	Result  string          `json:"result"` // done, rolled back, stopped
	Stop    *Stop           `json:"stop,omitempty"`
	Parts   int             `json:"parts"` // how often apply or rollback was run
	Began   time.Time       `json:"began"`
	Ended   time.Time       `json:"ended"`
	Wall    float64         `json:"wallSeconds"` // of all parts
	Backup  string          `json:"backup,omitempty"`
	Members []MemberSummary `json:"members"`
	Clients Felt            `json:"clients"`
}

// MemberSummary is one member's part.
type MemberSummary struct {
	Name    string  `json:"name"`
	Version string  `json:"version"`
	Moves   int     `json:"moves"`       // times that it was stopped and ready again
	Down    float64 `json:"downSeconds"` // from being asked to end until ready, of the last move
	Ending  float64 `json:"endSeconds"`  // of that, from being asked to end until it had ended
}

// finish ends the load, adds up and stores. A summary that cannot be written is no
// reason to call a run failed.
func (r *run) finish(err error) Summary {
	views := r.observe(context.Background())
	r.canary.end()
	var old Summary
	if text, err := vfs.ReadFile(r.o.FS, r.j.path(summaryName)); err == nil {
		_ = json.Unmarshal(text, &old)
	}
	s := Summary{Cluster: r.o.Plan.Cluster, From: r.o.Plan.From, To: r.o.Plan.To, Result: "stopped", Parts: old.Parts + 1,
		Began: r.j.recs[0].Time, Ended: time.Now().UTC().Truncate(time.Millisecond),
		Wall: old.Wall + time.Since(r.begun).Round(time.Millisecond).Seconds(), Clients: old.Clients}
	s.Clients.add(r.canary.result())
	var stop *Stop
	switch {
	case err == nil && r.p.ended != "":
		s.Result = r.p.ended
	case err == nil:
		s.Result = "one member rolled back"
	case errors.As(err, &stop) && stop.Block && r.p.ended != "" && old.Result != "":
		s.Result = old.Result // a rollback that was refused takes nothing from a run that is over
	case errors.As(err, &stop):
		s.Stop = stop
	default:
		s.Stop = &Stop{What: oneLine(err)}
	}
	s.Members, s.Backup = measure(r.j.recs, r.steps, r.names)
	for i, v := range views {
		s.Members[i].Version = versionOf(v)
	}
	if text, err := json.MarshalIndent(s, "", "  "); err == nil {
		_ = vfs.WriteFileAtomic(r.o.FS, r.j.path(summaryName), append(text, '\n'), 0o600)
	}
	return s
}

// measure reads from the journal how long each member was away, and which backup there is.
func measure(recs []record, steps []plan.Step, names []string) (out []MemberSummary, backup string) {
	kinds, at := map[string]plan.Step{}, map[string]int{}
	for _, s := range steps {
		kinds[s.ID] = s
	}
	for i, n := range names {
		out = append(out, MemberSummary{Name: n})
		at[n] = i
	}
	asked := map[string]time.Time{}
	for _, rec := range recs {
		for _, s := range rec.Steps {
			kinds[s.ID] = s
		}
		s := kinds[rec.Step]
		if s.Kind == plan.Backup && rec.Kind == recDone {
			backup = rec.Text
		}
		i, ok := at[s.Member]
		if !ok {
			continue
		}
		switch {
		case s.Kind == plan.Stop && rec.Kind == recIntent:
			asked[s.Member] = rec.Time
		case s.Kind == plan.Stop && rec.Kind == recDone:
			out[i].Ending = rec.Time.Sub(asked[s.Member]).Seconds()
		case s.Kind == plan.Ready && rec.Kind == recDone:
			out[i].Moves++
			out[i].Down = rec.Time.Sub(asked[s.Member]).Seconds()
		}
	}
	return out, backup
}

// show writes the summary for people.
func (s Summary) show(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s: %s → %s: %s\n", s.Cluster, s.From, s.To, s.Result)
	fmt.Fprintf(&b, "  wall time    %s", seconds(s.Wall))
	if s.Parts > 1 {
		fmt.Fprintf(&b, " in %d parts", s.Parts)
	}
	b.WriteString("\n")
	for _, m := range s.Members {
		fmt.Fprintf(&b, "  %-12s %s", m.Name, m.Version)
		if m.Moves > 0 {
			fmt.Fprintf(&b, ", away %s (%s of it to end)", seconds(m.Down), seconds(m.Ending))
		}
		b.WriteString("\n")
	}
	f := s.Clients
	fmt.Fprintf(&b, "  clients      %d requests, %d failed, longest gap in writes %s, slowest %s, watcher missed %d of %d events, %d leases lost\n",
		f.Writes+f.Reads, f.Failed, seconds(f.LongestGap), seconds(f.Slowest), f.Missed, f.Events+f.Missed, f.LeasesLost)
	if f.FirstError != "" {
		fmt.Fprintf(&b, "               first error: %s\n", f.FirstError)
	}
	if s.Backup != "" {
		fmt.Fprintf(&b, "  backup       %s\n", s.Backup)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func seconds(f float64) string {
	return time.Duration(f * float64(time.Second)).Round(time.Millisecond).String()
}
