package upgrade

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"theseus/upgrade/plan"
	"theseus/version"
)

// way is a way back: steps, which steps of the plan each of them undoes, or why there is
// none but the backup.
type way struct {
	steps  []plan.Step
	undoes map[string][]string
	refuse string
	none   bool // there is nothing to take back
}

// undo takes a failed step back at once, if that can be done, and says how all ended.
func (r *run) undo(ctx context.Context, failed *stepFailed) error {
	s := failed.step
	out := &Stop{Step: s.ID, What: oneLine(failed.err), Seen: failed.seen,
		Next: "mend the cause; " + r.command("apply", "") + " tries again, " + r.command("rollback", "") + " takes back what is done"}
	if s.Kind == plan.Stop {
		if st, err := r.o.Hosts[s.Member].Inspect(ctx); err == nil && st.Running {
			out.State = r.state()
			out.Undid = "nothing was to be undone: " + s.Member + " has not ended and its program was not changed"
			return out
		}
	} else if !critical(s.Kind) {
		out.State = r.state()
		return out
	}
	w := r.wayOf(s)
	if w.refuse == "" {
		w.refuse = r.tooNew(ctx, s)
	}
	if w.refuse != "" {
		out.Undid, out.State = "nothing: "+w.refuse, r.state()
		out.Next = r.command("status", "") + " shows how it stands; " + r.command("rollback", "") + " goes back, " + r.command("apply", "") + " tries again"
		return out
	}
	b := record{Kind: recBack, Cause: s.ID, Text: oneLine(failed.err), Steps: w.steps, Undoes: w.undoes}
	if err := r.note(b); err != nil {
		r.blind = true
		r.p.take(&b)
	}
	return r.walkBack(ctx, failed)
}

// wayOf is the way back of the one member whose group of steps s is of. It has no gate:
// the member is down or not well, and only it is touched.
func (r *run) wayOf(s plan.Step) way {
	for i := range r.steps {
		if r.steps[i].ID != s.ID {
			continue
		}
		from, to := group(r.steps, i)
		w := way{undoes: map[string][]string{}}
		w.member(fmt.Sprintf("u%d", len(r.j.recs)), r.steps[from:to], false, r.p.broken[s.Member])
		return w
	}
	return way{refuse: "the step is not of the plan"}
}

// member adds the steps that take one member back. One that was broken before the run
// gets its old program back, and is left as it was: down.
func (w *way) member(id string, steps []plan.Step, gate, broken bool) {
	var before, after *plan.Target
	name, ids := steps[0].Member, []string(nil)
	for _, s := range steps {
		ids = append(ids, s.ID)
		if s.Kind == plan.Swap {
			before, after = s.Before, s.Target
		}
	}
	if before == nil {
		w.refuse = "the plan does not say what " + name + " ran before"
		return
	}
	add := func(k plan.Kind, why string, t *plan.Target) {
		s := plan.Step{ID: fmt.Sprintf("%s-%d-%s-%s", id, len(w.steps)+1, name, k), Kind: k, Member: name, Target: t, Why: why, WayBack: plan.SwapBack}
		if k == plan.Swap {
			s.Before = after
		}
		w.steps = append(w.steps, s)
	}
	if gate {
		add(plan.Gate, "all others are well before "+name+" is stopped", nil)
	}
	add(plan.Stop, "its program is put back", nil)
	add(plan.Swap, "the program that was there before", before)
	if !broken {
		add(plan.Start, "on the data directory that it has", nil)
		add(plan.Ready, "it serves again as before", before)
	}
	w.undoes[w.steps[len(w.steps)-1].ID] = ids
}

// tooNew says why the old program would refuse the directory: the cluster version rose.
func (r *run) tooNew(ctx context.Context, s plan.Step) string {
	for i := range r.steps {
		if r.steps[i].ID != s.ID {
			continue
		}
		from, to := group(r.steps, i)
		views := r.observe(ctx) // once: the member is down meanwhile, and does not answer
		for _, t := range r.steps[from:to] {
			for _, v := range views {
				if t.Before != nil && v.Err == "" && t.Before.Version.Trunc().Less(v.Cluster.Trunc()) {
					return fmt.Sprintf("the cluster version is %s already, %s of before would refuse it; it must be lowered first", v.Cluster.MinorString(), program(t.Before))
				}
			}
		}
	}
	return ""
}

// walkBack walks the way back that the journal has, to its end. cause is the failed
// step that it undoes, nil when the operator asked for it.
func (r *run) walkBack(ctx context.Context, cause *stepFailed) error {
	b := r.p.back
	if cause != nil {
		ctx = context.WithoutCancel(ctx) // a member is down
		r.show.note("undoing %s", cause.step.ID)
	}
	err := r.walk(ctx, b.Steps)
	if err == nil {
		if err = r.note(record{Kind: recBacked}); r.blind {
			err = nil
		}
	}
	var failed *stepFailed
	switch {
	case err == nil && cause == nil:
		return nil
	case err == nil:
		return &Stop{Step: cause.step.ID, What: oneLine(cause.err), Seen: cause.seen, State: r.state(),
			Undid: cause.step.Member + " runs what it ran before, and is well",
			Next:  "mend the cause; " + r.command("apply", "") + " tries again, " + r.command("rollback", "") + " takes back what is done"}
	case errors.As(err, &failed):
		out := &Stop{Step: failed.step.ID, What: oneLine(failed.err), Seen: failed.seen, State: r.state(),
			Next: "mend the cause; " + r.command("rollback", "") + " goes on with the way back"}
		if cause != nil {
			out.What = fmt.Sprintf("%s (while undoing %s: %s)", oneLine(failed.err), cause.step.ID, oneLine(cause.err))
			out.Next = "mend the cause; " + r.command("apply", "") + " goes on with undoing, and changes nothing else"
			if len(out.Seen) == 0 {
				out.Seen = cause.seen
			}
		}
		return out
	}
	var stopped *Stop
	if errors.As(err, &stopped) {
		stopped.Next = r.command("rollback", "") + " goes on with the way back"
	}
	return err
}

// Rollback walks the run in the state directory back: all of it, or one member. It is
// journalled like Run, and goes on where it was killed. member may be empty.
func Rollback(ctx context.Context, o RunOptions, member string) (Summary, error) {
	r, err := openRun(o)
	if err != nil {
		return Summary{}, err
	}
	defer r.close()
	if r.p = replay(r.j.recs); len(r.j.recs) == 0 {
		return Summary{}, fmt.Errorf("there is no run in %s: nothing to take back", o.Dir)
	}
	p, err := r.j.plan()
	if err != nil {
		return Summary{}, err
	}
	r.steps, r.o.Plan = p.Steps, p
	if err := r.note(record{Kind: recResume, Text: "rollback"}); err != nil {
		return Summary{}, r.stopped(err)
	}
	r.startCanary()
	r.show.extra = r.canary.now
	stopPainter := r.painter(ctx)
	err = r.back(ctx, member)
	stopPainter()
	return r.finish(err), err
}

func (r *run) back(ctx context.Context, member string) error {
	if b := r.p.back; b != nil && b.Cause != "" { // what apply did not end undoing
		var s *Stop
		err := r.walkBack(ctx, &stepFailed{step: r.step(b.Cause), err: errors.New(b.Text)})
		if r.p.back != nil || !errors.As(err, &s) {
			return err
		}
	}
	if r.p.back == nil {
		views := r.observe(ctx)
		w := r.wayBack(views, member)
		if w.none {
			return &Stop{Block: true, What: w.refuse, State: r.state(), Next: r.command("status", "") + " shows how the run stands"}
		}
		if w.refuse != "" {
			return &Stop{Block: true, What: w.refuse, State: r.state(), Next: r.restoreText(ctx, views)}
		}
		if len(w.steps) > 0 {
			if err := r.note(record{Kind: recBack, Steps: w.steps, Undoes: w.undoes}); err != nil {
				return r.stopped(err)
			}
		}
	}
	if b := r.p.back; b != nil {
		if err := r.regateBack(ctx, b.Steps); err != nil {
			return err
		}
		if err := r.walkBack(ctx, nil); err != nil {
			return err
		}
	}
	if member == "" && !r.touched() {
		return r.note(record{Kind: recEnd, Text: "rolled back"})
	}
	return nil
}

// regateBack is regate on a way back.
func (r *run) regateBack(ctx context.Context, steps []plan.Step) error {
	plans := r.steps
	r.steps = steps
	defer func() { r.steps = plans }()
	return r.regate(ctx)
}

// touched says whether any member is away from what it ran before.
func (r *run) touched() bool {
	return slices.ContainsFunc(r.steps, func(s plan.Step) bool {
		return (critical(s.Kind) || s.Kind == plan.Stop) && (r.p.done[s.ID] || r.p.intent[s.ID])
	})
}

// restoreText is what is left when only the backup leads back: the commands, and what
// they cost.
func (r *run) restoreText(ctx context.Context, views []view) string {
	file := "FILE"
	for _, rec := range r.j.recs {
		if s := r.step(rec.Step); rec.Kind == recDone && s.Kind == plan.Backup {
			id, _, _ := strings.Cut(rec.Text, ":")
			file = strings.TrimPrefix(r.o.Inventory.Backup.Archive, "dir:") + "/" + id + ".db"
		}
	}
	peers, initial := map[string]string{}, []string(nil)
	for _, v := range views {
		for _, p := range v.Sees {
			if _, ok := peers[p.Name]; !ok && p.Name != "" {
				peers[p.Name] = strings.Join(p.Peers, ",")
				for _, u := range p.Peers {
					initial = append(initial, p.Name+"="+u)
				}
			}
		}
	}
	slices.Sort(initial)
	lines := []string{"only the backup leads back, and what was written after it is lost. If that must be: stop all members, and for each"}
	for _, name := range r.names {
		dir := "DIR"
		if st, err := r.o.Hosts[name].Inspect(ctx); err == nil && st.DataDir != "" {
			dir = st.DataDir
		}
		lines = append(lines, fmt.Sprintf("theseus offline snapshot restore %s --name %s --initial-cluster %s --initial-advertise-peer-urls %s --data-dir %s.restored",
			file, name, strings.Join(initial, ","), peers[name], dir))
	}
	return strings.Join(append(lines, "then move each data directory aside, the restored one into its place, and start the old programs"), "\n         ")
}

// wayBack computes the way back from what was done: the groups of the plan in reverse,
// and the cluster version lowered before a program that would refuse it.
func (r *run) wayBack(views []view, member string) way {
	w := way{undoes: map[string][]string{}}
	var cluster version.Version
	now := map[string]plan.Target{} // what each member runs at that point of the way
	for _, v := range views {
		if cluster.Less(v.Cluster.Trunc()) {
			cluster = v.Cluster.Trunc()
		}
		if now[v.Name] = (plan.Target{Version: v.Server, Theseus: v.Theseus != ""}); v.Err != "" {
			now[v.Name] = r.last(v.Name)
		}
	}
	id := fmt.Sprintf("r%d", len(r.j.recs))
	for i := len(r.steps) - 1; i >= 0; i-- {
		s := r.steps[i]
		if s.Kind != plan.Swap || member != "" && s.Member != member || !r.moved(i) {
			continue
		}
		if s.Before == nil {
			w.refuse = "the plan does not say what " + s.Member + " ran before"
			return w
		}
		if before := s.Before.Version.Trunc(); !before.IsZero() && before.Less(cluster) {
			if w.refuse = refuseLower(now, cluster, before, s.Member); w.refuse != "" {
				return w
			}
			w.lower(id, before, r.later(0))
			cluster = before
		}
		from, to := group(r.steps, i)
		w.member(id, r.steps[from:to], true, r.p.broken[s.Member])
		last := w.steps[len(w.steps)-1].ID
		w.undoes[last] = append(w.undoes[last], r.later(to)...)
		now[s.Member] = *s.Before
		if member != "" {
			return w
		}
	}
	if member != "" {
		w.refuse, w.none = fmt.Sprintf("nothing was done to a member %s in this run", member), true
		return w
	}
	w.raise(id, r.steps, now, cluster)
	return w
}

// last is the program that a member that does not answer was given last.
func (r *run) last(name string) (t plan.Target) {
	for i, s := range r.steps {
		if s.Kind != plan.Swap || s.Member != name || s.Before == nil {
			continue
		}
		if t.Version.IsZero() {
			t = *s.Before
		}
		if r.moved(i) {
			t = *s.Target
		}
	}
	return t
}

// moved says whether the group of step i has stopped its member.
func (r *run) moved(i int) bool {
	from, to := group(r.steps, i)
	return slices.ContainsFunc(r.steps[from:to], func(s plan.Step) bool {
		return (critical(s.Kind) || s.Kind == plan.Stop) && (r.p.done[s.ID] || r.p.intent[s.ID])
	})
}

// later are the steps from i on that hold for the whole cluster and are not true any
// more once a member goes back.
func (r *run) later(i int) (ids []string) {
	for _, s := range r.steps[i:] {
		if s.Kind == plan.AwaitVersion || s.Kind == plan.Finish {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

func (w *way) lower(id string, to version.Version, undoes []string) {
	s := plan.Step{ID: fmt.Sprintf("%s-%d-lower", id, len(w.steps)+1), Kind: plan.Lower, Version: to.MinorString(),
		Why: "the program of before refuses a newer cluster version", WayBack: plan.SwapBack}
	w.steps = append(w.steps, s)
	w.undoes[s.ID] = undoes
}

// raise adds the wait for the version of before when the plan had lowered it.
func (w *way) raise(id string, steps []plan.Step, now map[string]plan.Target, cluster version.Version) {
	lowered := slices.ContainsFunc(steps, func(s plan.Step) bool { return s.Kind == plan.Lower })
	var lowest version.Version
	for _, t := range now {
		if v := t.Version.Trunc(); lowest.IsZero() || v.Less(lowest) {
			lowest = v
		}
	}
	if lowered && cluster.Less(lowest) {
		s := plan.Step{ID: fmt.Sprintf("%s-%d-await-version", id, len(w.steps)+1), Kind: plan.AwaitVersion, Version: lowest.MinorString(),
			Why: "the cluster version is what it was", WayBack: plan.NothingDone}
		w.steps = append(w.steps, s)
		for _, t := range steps {
			if t.Kind == plan.Lower {
				w.undoes[s.ID] = append(w.undoes[s.ID], t.ID)
			}
		}
	}
}

// refuseLower says why the cluster version cannot be lowered for a member of before.
func refuseLower(now map[string]plan.Target, cluster, before version.Version, member string) string {
	var views []view
	var names []string
	for name, t := range now {
		v := view{Name: name, Server: t.Version}
		if t.Theseus {
			v.Theseus = "1"
		}
		views, names = append(views, v), append(names, fmt.Sprintf("%s %s", name, t.Version))
	}
	if canLower(views, cluster, before) {
		return ""
	}
	slices.Sort(names)
	return fmt.Sprintf("the cluster version is %s and the program %s ran before is of %s, which refuses it; these members cannot lower it online (%s). Nothing was done",
		cluster.MinorString(), member, before.MinorString(), strings.Join(names, ", "))
}
