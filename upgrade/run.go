package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"theseus/internal/vfs"
	"theseus/upgrade/host"
	"theseus/upgrade/plan"
)

// RunOptions say what Run does and with what. Everything but Inventory, Hosts and Dir
// has a zero value that works.
type RunOptions struct {
	Inventory *Inventory
	Hosts     map[string]host.Executor // by member's name; the caller closes them
	Plan      plan.Plan                // taken for a new run; an unfinished one goes on with the plan that it has
	Dir       string                   // state directory: plan, journal, summary, lock
	File      string                   // the inventory's path, for the commands that messages name
	Limits    plan.Limits              // zero: the inventory's
	FS        vfs.FS                   // nil: vfs.OS
	Out       io.Writer                // nil: nobody reads
	Format    string                   // text (default), live or json
	Yes       bool                     // go beyond the point of no return without asking
	Ask       func(question string) bool
	Backup    func(ctx context.Context) (id string, err error) // takes and proves one; nil: none can be made
	NoCanary  bool

	wire wire              // tests; nil: the cluster itself
	hook func(what string) // tests: every point where the program can be killed
}

// Stop is why a run ended before its end. Error is one line; Message has what a person
// needs at night.
type Stop struct {
	Step  string // that failed; empty: none did
	What  string // what failed, and what was seen
	Seen  []string
	Undid string // what was undone
	State string // how the cluster stands now
	Next  string // the command
	Block bool   // nothing failed: the run waits for a person (exit code 3)
}

func (s *Stop) Error() string { return s.What }

// Message is the whole of it, a few lines.
func (s *Stop) Message() string {
	var b strings.Builder
	line := func(head, text string) {
		if text != "" {
			fmt.Fprintf(&b, "%-8s %s\n", head, text)
		}
	}
	if s.Step != "" {
		line("failed:", s.Step)
	}
	line("why:", s.What)
	for i, l := range s.Seen {
		line([]string{"log:", ""}[min(i, 1)], l)
	}
	line("undone:", s.Undid)
	line("now:", s.State)
	line("next:", s.Next)
	return b.String()
}

// run is one walk along a plan, forward or back.
type run struct {
	o      RunOptions
	limits plan.Limits
	j      *journal
	p      *progress
	steps  []plan.Step // of the plan, not of a way back
	w      wire
	canary *canary
	show   *screen
	names  []string
	begun  time.Time
	blind  bool // the journal cannot be written: only a member that is down is brought back

	mu    sync.Mutex // guards views, which the table's painter refreshes too
	views []view
}

// openRun opens the journal and everything that a walk needs.
func openRun(o RunOptions) (*run, error) {
	if o.FS == nil {
		o.FS = vfs.OS
	}
	if o.Limits == (plan.Limits{}) {
		l, err := o.Inventory.limits()
		if err != nil {
			return nil, err
		}
		o.Limits = l
	}
	r := &run{o: o, limits: o.Limits, w: o.wire, begun: time.Now()}
	for _, m := range o.Inventory.Members {
		if o.Hosts[m.Name] == nil {
			return nil, fmt.Errorf("member %s has no host: give it one in the inventory", m.Name)
		}
		r.names = append(r.names, m.Name)
	}
	j, err := openJournal(o.FS, o.Dir)
	if err != nil {
		return nil, err
	}
	j.hook, r.j = o.hook, j
	if r.w == nil {
		if r.w, err = newLiveWire(o.Inventory); err != nil {
			j.close()
			return nil, err
		}
	}
	r.show = newScreen(o.Out, o.Format)
	return r, nil
}

func (r *run) close() {
	r.canary.end()
	r.show.close()
	r.w.close()
	r.j.close()
}

// ended is the text of the last record of a run that went to its end.
const ended = "done"

// Run carries a plan out, or goes on with the run that the state directory holds. The
// error is a *Stop when the run ended in good order before its end.
//
// Before each step its intent is durable in the journal, after it its result. So Run may
// be killed at any instruction and called again: a step with an intent and no result is
// done again, and each asks first whether it is done. Between a member's stop and its
// being ready again the end of ctx does not interrupt: the member is brought back first.
func Run(ctx context.Context, o RunOptions) (Summary, error) {
	r, err := openRun(o)
	if err != nil {
		return Summary{}, err
	}
	defer r.close()
	if err := r.prepare(ctx); err != nil {
		return Summary{}, err
	}
	r.startCanary()
	r.show.extra = r.canary.now
	stopPainter := r.painter(ctx)
	err = r.forward(ctx)
	stopPainter()
	return r.finish(err), err
}

// prepare begins a run, or takes up the one that is there.
func (r *run) prepare(ctx context.Context) error {
	r.p = replay(r.j.recs)
	if len(r.j.recs) > 0 && r.p.ended != "" {
		if p, err := r.j.plan(); err == nil && r.p.ended == ended && (len(r.o.Plan.Steps) == 0 || sameSteps(p, r.o.Plan)) {
			r.steps, r.o.Plan = p.Steps, p
			return nil // killed after its last record: it is done, and no plan is good for a second time
		}
		if err := r.j.archive(); err != nil {
			return err
		}
		r.p = replay(nil)
	}
	if len(r.j.recs) == 0 {
		if len(r.o.Plan.Steps) == 0 {
			return errors.New("the plan has no steps: there is nothing to do")
		}
		var broken []string
		for _, v := range r.observe(ctx) {
			if trouble(v) != "" {
				broken = append(broken, v.Name)
			}
		}
		if err := r.j.begin(r.o.Plan, broken); err != nil {
			return fmt.Errorf("nothing was done: %w", err)
		}
		r.p, r.steps = replay(r.j.recs), r.o.Plan.Steps
		return nil
	}
	p, err := r.j.plan()
	if err != nil {
		return err
	}
	if r.o.Plan.Cluster != "" && !sameSteps(p, r.o.Plan) {
		return &Stop{Block: true, What: "the state directory holds a run of another plan that is not finished",
			Next: r.command("apply", "") + " without --plan goes on with it, " + r.command("rollback", "") + " takes it back"}
	}
	r.steps, r.o.Plan = p.Steps, p
	return r.j.append(record{Kind: recResume, Text: "apply"})
}

func sameSteps(a, b plan.Plan) bool {
	return slices.EqualFunc(a.Steps, b.Steps, func(s, t plan.Step) bool { return s.ID == t.ID && s.Kind == t.Kind && s.Member == t.Member })
}

// command is what the operator types next.
func (r *run) command(verb, more string) string {
	text := "theseus upgrade " + verb
	if r.o.File != "" {
		text += " -f " + r.o.File
	}
	if more != "" {
		text += " " + more
	}
	return text
}

// forward walks the plan from where the journal stands.
func (r *run) forward(ctx context.Context) error {
	if b := r.p.back; b != nil && b.Cause == "" {
		return &Stop{Block: true, What: "a rollback was begun and is not finished", Next: r.command("rollback", "")}
	} else if b != nil {
		cause := &stepFailed{step: r.step(b.Cause), err: errors.New(b.Text)}
		return r.walkBack(ctx, cause)
	}
	if err := r.regate(ctx); err != nil {
		return err
	}
	err := r.walk(ctx, r.steps)
	var failed *stepFailed
	if errors.As(err, &failed) {
		return r.undo(ctx, failed)
	}
	if err != nil {
		return err
	}
	if r.p.ended == ended {
		return nil
	}
	if err := r.note(record{Kind: recEnd, Text: ended}); err != nil {
		return r.stopped(err)
	}
	return nil
}

func (r *run) step(id string) plan.Step {
	for _, s := range r.steps {
		if s.ID == id {
			return s
		}
	}
	return plan.Step{ID: id}
}

// stepFailed is a step that was tried and not done.
type stepFailed struct {
	step plan.Step
	err  error
	seen []string
}

func (e *stepFailed) Error() string { return e.step.ID + ": " + e.err.Error() }
func (e *stepFailed) Unwrap() error { return e.err }

// critical are the steps between which a member is down, or not yet known to be well.
func critical(k plan.Kind) bool { return k == plan.Swap || k == plan.Start || k == plan.Ready }

// group is the range of steps around i that move one member: its gate to its ready.
func group(steps []plan.Step, i int) (from, to int) {
	name := steps[i].Member
	if name == "" || !critical(steps[i].Kind) && steps[i].Kind != plan.Stop && steps[i].Kind != plan.MoveLeader && steps[i].Kind != plan.Gate {
		return i, i + 1
	}
	moves := func(s plan.Step) bool {
		return s.Member == name && (critical(s.Kind) || s.Kind == plan.Stop || s.Kind == plan.MoveLeader || s.Kind == plan.Gate)
	}
	for from = i; from > 0 && moves(steps[from-1]) && steps[from-1].Kind != plan.Ready; from-- {
	}
	for to = i + 1; to < len(steps) && moves(steps[to]) && steps[to-1].Kind != plan.Ready; to++ {
	}
	return from, to
}

// regate forgets a gate that was passed before the tool was killed: what it saw is old.
// It does the same for a member that was stopped and runs its old program again, which
// somebody else has started.
func (r *run) regate(ctx context.Context) error {
	for i, s := range r.steps {
		if s.Kind != plan.Swap {
			continue
		}
		from, to := group(r.steps, i)
		finished := slices.ContainsFunc(r.steps[from:to], func(t plan.Step) bool { return t.Kind == plan.Ready && r.p.done[t.ID] })
		if finished || r.moved(i) && !r.runs(ctx, s.Member, s.Before) {
			continue
		}
		for _, t := range r.steps[from:to] {
			delete(r.p.done, t.ID)
		}
	}
	return ctx.Err()
}

// runs says whether the member runs the program that was there before.
func (r *run) runs(ctx context.Context, name string, before *plan.Target) bool {
	st, err := r.o.Hosts[name].Inspect(ctx)
	return err == nil && st.Running && (before == nil || st.Program == program(before))
}

// walk does the steps that are not done yet, in their order.
func (r *run) walk(ctx context.Context, steps []plan.Step) error {
	for i, s := range steps {
		if r.p.done[s.ID] {
			continue
		}
		sctx := ctx
		if critical(s.Kind) || s.Kind == plan.Stop && r.p.intent[s.ID] {
			sctx = context.WithoutCancel(ctx) // a member is down: bring it back first
		} else if ctx.Err() != nil {
			return r.stopped(context.Cause(ctx))
		}
		if err := r.point(s); err != nil {
			return err
		}
		if s.Kind == plan.Stop && !r.blind {
			if err := r.j.reserve(); err != nil {
				return r.stopped(err)
			}
		}
		if err := r.do(sctx, s, i+1, len(steps)); err != nil {
			return err
		}
	}
	return nil
}

// point asks before the step from which only the backup leads back.
func (r *run) point(s plan.Step) error {
	if !s.Point || r.o.Yes || r.p.yes[s.ID] {
		return nil
	}
	question := fmt.Sprintf("%s: %s. After it the way back is: %s. Go on?", s.ID, s.Why, s.WayBack)
	r.show.clear()
	if r.o.Ask == nil || !r.o.Ask(question) {
		return &Stop{Block: true, What: "not agreed: " + question, State: r.state(), Next: r.command("apply", "--yes") + " goes on, " + r.command("rollback", "") + " takes it back"}
	}
	if err := r.note(record{Kind: recYes, Step: s.ID}); err != nil {
		return r.stopped(err)
	}
	return nil
}

// note makes a record durable and takes it into account.
func (r *run) note(rec record) error {
	if err := r.j.append(rec); err != nil {
		return err
	}
	r.p.take(&r.j.recs[len(r.j.recs)-1])
	return nil
}

// do is one step: intent, act, result. A journal that cannot be written stops the run
// before the step, but it leaves no member down: that one is brought back without it.
func (r *run) do(ctx context.Context, s plan.Step, n, of int) error {
	if err := r.note(record{Kind: recIntent, Step: s.ID}); err != nil && !r.blind {
		if critical(s.Kind) {
			return &stepFailed{step: s, err: err}
		}
		return r.stopped(err)
	}
	r.show.begin(s, n, of)
	begin := time.Now()
	detail, err := r.act(ctx, s)
	if err != nil && ctx.Err() != nil {
		return r.stopped(context.Cause(ctx))
	}
	if err != nil {
		seen := r.lastLines(s)
		_ = r.note(record{Kind: recFailed, Step: s.ID, Text: oneLine(err)}) // an intent without a result says the same
		r.show.failed(s, err)
		return &stepFailed{step: s, err: err, seen: seen}
	}
	if err := r.note(record{Kind: recDone, Step: s.ID, Text: detail}); err != nil && !r.blind {
		if critical(s.Kind) || s.Kind == plan.Stop {
			return &stepFailed{step: s, err: err}
		}
		return r.stopped(err)
	}
	r.show.end(s, detail, time.Since(begin))
	return nil
}

// lastLines are what the member wrote before its step failed.
func (r *run) lastLines(s plan.Step) []string {
	x := r.o.Hosts[s.Member]
	if x == nil || !critical(s.Kind) && s.Kind != plan.Stop {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
	defer cancel()
	lines, err := x.Logs(ctx, 5)
	if err != nil {
		return nil
	}
	for i, l := range lines {
		if len(l) > 300 {
			lines[i] = l[:300] + " ..."
		}
	}
	return lines
}

// stopped is the end of a run in good order, with nothing half done.
func (r *run) stopped(err error) error {
	if errors.Is(err, context.Canceled) {
		return &Stop{What: "interrupted; no step is half done", State: r.state(), Next: r.command("apply", "") + " goes on, " + r.command("rollback", "") + " takes it back"}
	}
	return &Stop{What: err.Error(), State: r.state(), Next: r.command("apply", "") + " goes on when that is mended"}
}

// observe asks all members at the same time, and keeps what they said for the table.
func (r *run) observe(ctx context.Context) []view {
	views := make([]view, len(r.names))
	each(len(r.names), func(i int) { views[i] = r.w.look(ctx, r.names[i]) })
	r.mu.Lock()
	r.views = views
	r.mu.Unlock()
	r.show.table(views)
	return views
}

// each runs f for all numbers below n at the same time.
func each(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

// state is one line on how the members stand.
func (r *run) state() string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*lookTimeout)
	defer cancel()
	var parts []string
	for _, v := range r.observe(ctx) {
		text := v.Name + " " + versionOf(v)
		if bad := trouble(v); bad != "" {
			text = bad
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

// versionOf is a member's program for people.
func versionOf(v view) string {
	switch {
	case v.Err != "" || v.Server.IsZero():
		return "?"
	case v.Theseus != "":
		return "Theseus " + v.Theseus + " (" + v.Server.MinorString() + ")"
	}
	return v.Server.String()
}

// pause waits for the next look.
func (r *run) pause(ctx context.Context) error {
	t := time.NewTimer(pollEvery)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// painter keeps the table true while an executor works, and explains what the members
// log. The returned function ends it and waits.
func (r *run) painter(ctx context.Context) func() {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	if r.o.wire == nil { // with a wire of the tests there is nobody to watch
		wg.Go(func() {
			e := newExplainer()
			for ctx.Err() == nil {
				r.observe(ctx)
				e.look(ctx, r)
				t := time.NewTimer(paintEvery)
				select {
				case <-t.C:
				case <-ctx.Done():
				}
				t.Stop()
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

// short is a duration for people.
func short(d time.Duration) string {
	if d < time.Second {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Millisecond).String()
}
