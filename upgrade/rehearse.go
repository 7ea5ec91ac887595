package upgrade

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"theseus/backup"
	"theseus/internal/vfs"
	"theseus/upgrade/host"
	"theseus/upgrade/plan"
	"theseus/version"
)

// RehearseOptions say what is rehearsed. The zero value of all but Inventory works.
type RehearseOptions struct {
	Inventory *Inventory
	Backup    string // ID of one in the archive; empty: one is taken and proven now
	From      string // the program that the copies start with; empty: the members' own
	To        string // the target's program on this machine; empty: the inventory's
	Dir       string // where the scratch cluster's directory is made; empty: the system's place for such
	Keep      bool   // leave the scratch cluster's files for a person to look at
	Out       io.Writer
	Format    string // text (default), live or json
}

// Rehearsal is what came of one.
type Rehearsal struct {
	Cluster     string          `json:"cluster"`
	From        string          `json:"from"`
	To          string          `json:"to"`
	Backup      string          `json:"backup,omitempty"`
	Steps       int             `json:"steps"`
	Members     []scratchMember `json:"members,omitempty"`
	Unlike      []string        `json:"unlike,omitempty"` // in what the copy is not like the cluster
	Felt        []string        `json:"felt,omitempty"`   // by clients, as must be expected
	Remarks     []plan.Remark   `json:"remarks"`          // of check, on the real cluster
	Predictions []Prediction    `json:"predictions"`
	Run         *Summary        `json:"run,omitempty"`
	Back        string          `json:"back,omitempty"` // the member that was taken back and forth, or why none was
	Load        *LoadResult     `json:"load,omitempty"`
	Wall        float64         `json:"wall"` // seconds
	Kept        string          `json:"kept,omitempty"`
	Passed      bool            `json:"passed"`
}

// Prediction is a failure that the copy met and the real cluster would.
type Prediction struct {
	Step  string   `json:"step"`
	Seen  string   `json:"seen"`
	Log   []string `json:"log,omitempty"`
	Means string   `json:"means"` // for production
}

// rehearsal is one under way.
type rehearsal struct {
	o     RehearseOptions
	res   Rehearsal
	facts plan.Facts
	steps []plan.Step // of the copy's plan
	s     *scratch
	m     backup.Manifest
}

// Rehearse carries the plan out on a copy of the cluster: made from a backup, on
// loopback addresses of this machine, with the same number of members, names, programs
// and flags as far as those transfer, and under load. The real cluster is read and
// nothing else. An error means that there was no rehearsal; what the copy met is in the
// predictions. Whatever was made is gone when it returns, unless it was to be kept.
func Rehearse(ctx context.Context, o RehearseOptions) (_ Rehearsal, err error) {
	r := &rehearsal{o: o, res: Rehearsal{Cluster: o.Inventory.Cluster, Predictions: []Prediction{}, Remarks: []plan.Remark{}}}
	if r.o.Out == nil {
		r.o.Out = io.Discard
	}
	began := time.Now()
	if r.facts, err = r.gather(ctx); err != nil {
		return r.res, err
	}
	p, remarks := plan.Make(r.facts)
	r.res.From, r.res.To, r.res.Steps = p.From, p.To, len(p.Steps)
	r.res.Remarks = append(r.res.Remarks, plan.Check(r.facts)...)
	if plan.Blocked(remarks) || len(p.Steps) == 0 {
		r.res.Passed = !plan.Blocked(remarks) && !plan.Blocked(r.res.Remarks)
		return r.res, nil
	}
	if err := r.open(ctx); err != nil {
		return r.res, err
	}
	defer func() {
		if cerr := r.s.close(o.Keep); err == nil {
			err = cerr
		}
	}()
	if o.Keep {
		r.res.Kept = r.s.dir
	}
	if err := r.perform(ctx); err != nil {
		return r.res, err
	}
	r.res.Wall = time.Since(began).Seconds()
	r.res.Passed = len(r.res.Predictions) == 0 && !plan.Blocked(r.res.Remarks)
	return r.res, nil
}

// say writes one line of progress.
func (r *rehearsal) say(format string, args ...any) {
	if r.o.Format != "json" {
		_, _ = fmt.Fprintf(r.o.Out, format+"\n", args...)
	}
}

// gather asks the real cluster.
func (r *rehearsal) gather(ctx context.Context) (plan.Facts, error) {
	inv := r.o.Inventory
	var hosts map[string]host.Executor
	if !slices.ContainsFunc(inv.Members, func(m InventoryMember) bool { return m.Host.Kind == "" }) {
		var err error
		if hosts, err = inv.Hosts(); err != nil {
			return plan.Facts{}, err
		}
		defer closeHosts(hosts)
	}
	return Gather(ctx, inv, hosts)
}

// open takes the backup and makes the copy.
func (r *rehearsal) open(ctx context.Context) error {
	members, err := programs(ctx, r.o.Inventory, r.facts, r.o.From)
	if err != nil {
		return err
	}
	if err := r.same(ctx); err != nil {
		return err
	}
	if r.m, err = r.backup(ctx); err != nil {
		return err
	}
	r.res.Backup, r.res.Members = r.m.ID, members
	r.say("backup      %s", r.m.String())
	if r.s, err = makeScratch(r.o, r.m, members, r.facts.Limits); err != nil {
		return err
	}
	for i, m := range r.s.members {
		r.say("copy        %s: %s on %s%s", m.Name, m.Program, m.addr, withFlags(m))
		for _, l := range m.LeftOut {
			if i == 0 || !slices.Equal(m.LeftOut, r.s.members[0].LeftOut) {
				r.say("            left out %s", l)
			}
		}
	}
	for _, m := range r.facts.Members {
		if m.Err != "" {
			r.unlike("%s does not answer in production, and is well in the copy", m.Name)
		}
		if m.Learner {
			r.unlike("%s is a learner in production, and votes in the copy", m.Name)
		}
	}
	return nil
}

// same refuses a program in the target's place that is of another version.
func (r *rehearsal) same(ctx context.Context) error {
	if r.o.To == "" {
		return nil
	}
	text, err := tellVersion(ctx, r.o.To)
	if err != nil {
		return fmt.Errorf("--to-binary: %w", err)
	}
	is, _, ours := plan.ReadVersion(text)
	if t := r.facts.Target; !is.SameMinor(t.Version) || ours != t.Theseus {
		return fmt.Errorf("--to-binary: %s is %s, the target is %s: name the same version", r.o.To, firstLine(text), t)
	}
	return nil
}

func withFlags(m scratchMember) string {
	if len(m.Flags)+len(m.env) == 0 {
		return ""
	}
	return ", with " + strings.Join(append(slices.Clone(m.env), m.Flags...), " ")
}

func (r *rehearsal) unlike(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.res.Unlike = append(r.res.Unlike, text)
	r.say("unlike      %s", text)
}

// backup takes one, or looks at the one that was named.
func (r *rehearsal) backup(ctx context.Context) (backup.Manifest, error) {
	archive := r.o.Inventory.Backup.Archive
	if r.o.Backup == "" {
		return TakeBackup(ctx, r.o.Inventory, nil)
	}
	if archive == "" {
		return backup.Manifest{}, errors.New("the inventory names no archive: add backup: {archive: \"dir:/var/backups/etcd\"}")
	}
	return backup.Verify(ctx, archive, r.o.Backup)
}

// perform brings the copy up, walks the plan under load, and looks at what became of
// the data. An error is an interruption, or a fault of the rehearsal itself.
func (r *rehearsal) perform(ctx context.Context) error {
	var want version.Version
	for _, m := range r.facts.Members {
		if want.Less(m.Cluster) {
			want = m.Cluster
		}
	}
	unlike, err := r.s.start(ctx, want)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		name, _ := r.s.ended(ctx)
		r.predict("restore", oneLine(err), r.s.logs(cmp.Or(name, r.s.members[0].Name)),
			"a cluster that is restored from this backup does not start: there is no way back by it. Look at the log before anything else")
		return nil
	}
	if unlike != "" {
		r.unlike("%s", unlike)
	}
	l, err := startLoad(r.s.inv)
	if err != nil {
		return err
	}
	healthy := r.walk(ctx)
	if ctx.Err() != nil {
		l.stop()
		return context.Cause(ctx)
	}
	r.judgeLoad(ctx, l)
	if healthy {
		r.judgeData(ctx)
	}
	return nil
}

// walk is the plan, and one member back and forth. It tells whether the copy is whole.
func (r *rehearsal) walk(ctx context.Context) bool {
	f, err := Gather(ctx, r.s.inv, r.s.hosts)
	if err != nil {
		r.predict("check", oneLine(err), nil, "the same question fails in production before anything is touched")
		return true
	}
	f.Scratch = true
	p, remarks := plan.Make(f)
	if plan.Blocked(remarks) {
		for _, m := range remarks {
			if m.Severity == plan.Block {
				r.predict("plan", m.Code+": "+m.Why, nil, "the plan for the copy is blocked: "+m.Mend)
			}
		}
		return true
	}
	r.steps = p.Steps
	r.say("")
	o := RunOptions{Inventory: r.s.inv, Hosts: r.s.hosts, Plan: p, Dir: r.s.inv.State, File: r.s.file(), Limits: f.Limits,
		Out: r.o.Out, Format: r.o.Format, Yes: true}
	sum, err := Run(ctx, o)
	r.res.Run = &sum
	if !r.went(ctx, p, err) {
		return false
	}
	return r.backAndForth(ctx, p, o)
}

// backAndForth takes the member that was moved first back and moves it again, if there
// is a way back at the end of the plan that is not the backup.
func (r *rehearsal) backAndForth(ctx context.Context, p plan.Plan, o RunOptions) bool {
	name := ""
	for _, s := range p.Steps {
		if s.Kind == plan.Swap && name == "" {
			name = s.Member
		}
	}
	switch end := p.Steps[len(p.Steps)-1].WayBack; {
	case name == "":
		r.res.Back = "no member is moved"
		return true
	case end != plan.SwapBack && end != plan.LowerFirst:
		r.res.Back = "no member was taken back: at the end of this plan only the backup leads back"
		r.say("%s", r.res.Back)
		return true
	}
	r.say("\n%s is taken back, and forth again", name)
	_, err := Rollback(ctx, o, name)
	if !r.went(ctx, p, err) {
		return false
	}
	o.Plan = plan.Plan{}
	_, err = Run(ctx, o)
	if !r.went(ctx, p, err) {
		return false
	}
	r.res.Back = name
	return true
}

// went turns the end of a run into a prediction. It tells whether the run went well.
func (r *rehearsal) went(ctx context.Context, p plan.Plan, err error) bool {
	var stop *Stop
	switch {
	case err == nil || ctx.Err() != nil:
		return err == nil
	case !errors.As(err, &stop):
		r.predict("run", oneLine(err), nil, "the run does not get this far in production either")
		return false
	}
	var step plan.Step
	for _, s := range p.Steps {
		if s.ID == stop.Step {
			step = s
		}
	}
	name := cmp.Or(stop.Step, "run")
	if step.ID != "" {
		name += " (" + step.Text() + ")"
	}
	r.predict(name, stop.What, stop.Seen, meaning(step, stop))
	return false
}

// meaning is what a failed step would be in production.
func meaning(s plan.Step, stop *Stop) string {
	switch s.Kind {
	case plan.Stage:
		return "nothing would have been touched: the program itself is not fit"
	case plan.Gate, plan.MoveLeader:
		return "the run would stop before " + s.Member + " is touched, all members up"
	case plan.Stop:
		return s.Member + " would have been asked to end and would hang; it is never killed"
	case plan.Swap, plan.Start, plan.Ready:
		undone := "it could not be put back by itself"
		if stop.Undid != "" {
			undone = "then: " + stop.Undid
		}
		return fmt.Sprintf("%s would have been down while the others hold quorum alone; %s", s.Member, undone)
	case plan.AwaitVersion, plan.Lower:
		return "all members would be up, between two versions, with this way back: " + ways[s.WayBack]
	}
	return "the run would stop there; " + cmp.Or(stop.Undid, "nothing is undone")
}

func (r *rehearsal) predict(step, seen string, log []string, means string) {
	r.res.Predictions = append(r.res.Predictions, Prediction{Step: step, Seen: seen, Log: log, Means: means})
}

// judgeLoad ends the clients and says what they felt.
func (r *rehearsal) judgeLoad(ctx context.Context, l *load) {
	res, err := l.end(ctx)
	r.res.Load = &res
	if recs, _, err := readJournal(vfs.OS, r.s.inv.State); err == nil {
		steps := map[string]plan.Step{}
		for _, s := range r.steps {
			steps[s.ID] = s
		}
		for _, rec := range recs {
			for _, s := range rec.Steps {
				steps[s.ID] = s
			}
		}
		res.during(recs, steps)
	}
	if err != nil {
		r.predict("load", oneLine(err), nil, "clients would be left without an answer at the end")
	}
	if res.Lost > 0 {
		r.predict("load", fmt.Sprintf("%d of %d acknowledged writes are not there at the end", res.Lost, res.Acked), nil, "writes would be lost: do not begin")
	}
	if res.Missed > 0 {
		r.predict("load", fmt.Sprintf("a watcher was not sent %d of %d acknowledged writes", res.Missed, res.Acked), nil, "controllers that rely on watches would miss changes")
	}
	r.judgeFailures(res)
	if stall := r.facts.Limits.Stall.Seconds(); res.LongestGap > stall && len(r.s.members) > 2 {
		r.predict("load", fmt.Sprintf("writes stood still for %s, the limit is %s", seconds(res.LongestGap), r.facts.Limits.Stall), nil, "clients would wait as long")
	}
}

// judgeFailures tells the requests that failed. Those that a real etcd drops because it
// is ended, or gives the leadership away, whoever makes it, predict nothing.
func (r *rehearsal) judgeFailures(res LoadResult) {
	first := -1
	for i, f := range res.Failures {
		if f.felt {
			text := f.Step + ": " + f.Text + " (a real etcd drops what it has in hand when it is ended, and while it hands over)"
			if !slices.Contains(r.res.Felt, text) {
				r.res.Felt = append(r.res.Felt, text)
			}
		} else if first < 0 {
			first = i
		}
	}
	if first >= 0 {
		f := res.Failures[first]
		r.predict(cmp.Or(f.Step, "load"), fmt.Sprintf("of %d requests %d failed; one that no real etcd is the cause of: %s", res.Requests, res.Failed, f.Text), nil,
			"clients that do not try again would see such errors")
	}
}

// judgeData compares the members with each other and, at the backup's revision, with
// the cluster that the backup is of.
func (r *rehearsal) judgeData(ctx context.Context) {
	w, err := newLiveWire(r.s.inv)
	if err != nil {
		r.predict("hashes", oneLine(err), nil, "not known")
		return
	}
	defer w.close()
	var top int64
	for _, m := range r.s.members {
		top = max(top, w.look(ctx, m.Name).Revision)
	}
	var first plan.Hash
	for i, m := range r.s.members {
		h, err := hashSoon(ctx, w, m.Name, top)
		if i == 0 {
			first = h
		}
		if err != nil {
			r.predict("hashes", m.Name+" told no hash: "+oneLine(err), nil, "a member would not be known to be whole")
		} else if max(h.Compacted, 0) == max(first.Compacted, 0) && h.Hash != first.Hash {
			r.predict("hashes", fmt.Sprintf("at revision %d %s has %d, %s has %d", top, r.s.members[0].Name, first.Hash, m.Name, h.Hash), nil, "members would hold different data: do not begin")
		}
		// What was compacted since the backup cannot be compared any more.
		h, err = w.hash(ctx, m.Name, r.m.Revision)
		if err == nil && max(h.Compacted, 0) == max(r.m.Compacted, 0) && h.Hash != r.m.HashKV {
			r.predict("hashes", fmt.Sprintf("%s has %d at the backup's revision %d, the real cluster has %d", m.Name, h.Hash, r.m.Revision, r.m.HashKV), nil, "the upgrade would change data: do not begin")
		}
	}
}

// hashSoon asks again while a member has not come as far.
func hashSoon(ctx context.Context, w wire, name string, rev int64) (plan.Hash, error) {
	for end := time.Now().Add(loadSettle); ; {
		h, err := w.hash(ctx, name, rev)
		if err == nil || time.Now().After(end) || ctx.Err() != nil {
			return h, err
		}
		t := time.NewTimer(pollEvery)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}
