package upgrade

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"theseus/upgrade/plan"
	"theseus/version"
)

var errNotAsked = errors.New("not asked")

// act does one step. Each kind asks first whether it is done, since the tool may have
// been killed after it was.
func (r *run) act(ctx context.Context, s plan.Step) (string, error) {
	if x := r.o.Hosts[s.Member]; x == nil && (critical(s.Kind) || s.Kind == plan.Stop || s.Kind == plan.Stage) {
		return "", fmt.Errorf("member %q has no host in the inventory", s.Member)
	}
	switch s.Kind {
	case plan.Backup:
		if r.o.Backup == nil {
			return "", errors.New("no backup can be made: give the inventory a backup.archive")
		}
		r.show.waiting("the backup is taken, and proven by restoring it")
		id, err := r.o.Backup(ctx)
		return id, err
	case plan.Stage:
		return r.stage(ctx, s)
	case plan.Gate:
		return r.gate(ctx, s)
	case plan.MoveLeader:
		return r.moveLeader(ctx, s)
	case plan.Stop:
		return r.stopMember(ctx, s)
	case plan.Swap:
		return r.swap(ctx, s)
	case plan.Start:
		return r.start(ctx, s)
	case plan.Ready:
		return r.ready(ctx, s)
	case plan.AwaitVersion:
		return r.awaitVersion(ctx, s)
	case plan.Lower:
		return r.lower(ctx, s)
	case plan.Finish:
		return r.finishHosts(ctx, s)
	}
	return "", fmt.Errorf("this program does not know the step kind %q: the plan was made by a newer one", s.Kind)
}

func (r *run) stage(ctx context.Context, s plan.Step) (string, error) {
	r.show.waiting("%s is on the host and starts", program(s.Target))
	text := ""
	err := bounded(ctx, stageTimeout, func(ctx context.Context) (err error) {
		text, err = r.o.Hosts[s.Member].Stage(ctx, program(s.Target))
		return err
	})
	if err != nil {
		return "", err
	}
	is, _, ours := plan.ReadVersion(text)
	if !is.IsZero() && s.Target != nil && (!is.SameMinor(s.Target.Version) || ours != s.Target.Theseus) {
		return "", fmt.Errorf("%s says that it is %s, the plan is for %s: put the right program there", program(s.Target), oneLine(errors.New(text)), s.Target.Version)
	}
	return is.String(), nil
}

// moveLeader gives the leadership away from the member that is to be stopped, to the
// named member or to the best of the others, and waits until all see it.
func (r *run) moveLeader(ctx context.Context, s plan.Step) (string, error) {
	begin := time.Now()
	asked, to := false, view{}
	for {
		views := r.observe(ctx)
		leader, ok := leaderOf(views)
		if ok && leader.Name != s.Member && r.follow(views, leader.ID, s.Member) {
			return leader.Name + " leads", nil
		}
		if ok && leader.Name == s.Member && (!asked || time.Since(begin) > moveTimeout/2) {
			if to, ok = r.heir(views, s); !ok {
				return "", fmt.Errorf("no other voter is level with the leader %s: wait until one is, or repair it", s.Member)
			}
			asked = true
			r.show.waiting("leadership moves from %s to %s", s.Member, to.Name)
			r.announceMove(ctx, views, leader, to.ID)
			switch err := r.w.moveLeader(ctx, s.Member, to.ID); {
			case errors.Is(err, errNoMove):
				return "this version cannot be asked to move leadership: the others elect when it stops", nil
			case err != nil:
				r.show.note("%s did not move leadership to %s: %s", s.Member, to.Name, oneLine(err))
			}
		}
		if time.Since(begin) > max(r.limits.Stall, 3*moveTimeout) {
			return "", fmt.Errorf("leadership did not leave %s within %s", s.Member, short(time.Since(begin)))
		}
		r.show.waiting("all members follow another leader than %s", s.Member)
		if err := r.pause(ctx); err != nil {
			return "", err
		}
	}
}

// announceMove warns the members that are Theseus already, if the leader is none.
func (r *run) announceMove(ctx context.Context, views []view, leader view, to uint64) {
	if leader.Theseus != "" {
		return
	}
	each(len(views), func(i int) {
		if v := views[i]; v.Err == "" && v.Theseus != "" {
			r.w.announceMove(ctx, v.Name, to)
		}
	})
}

// follow says whether all members that answer have this leader.
func (r *run) follow(views []view, id uint64, without string) bool {
	for _, v := range views {
		if v.Err == "" && v.Name != without && v.Leader != id {
			return false
		}
	}
	return true
}

// heir is the voter that is to lead: the one the plan names if it is well, else the one
// that has applied most.
func (r *run) heir(views []view, s plan.Step) (best view, ok bool) {
	for _, v := range views {
		if v.Name == s.Member || !fine(v) || v.Learner {
			continue
		}
		if v.Name == s.To {
			return v, true
		}
		if better := r.settled(v.Name) && !r.settled(best.Name); !ok || better || level(v) > level(best) && r.settled(v.Name) == r.settled(best.Name) {
			best, ok = v, true
		}
	}
	return best, ok
}

// settled says whether the member is through already, so that it need not give the
// leadership away again.
func (r *run) settled(name string) bool {
	steps := r.steps
	if r.p.back != nil {
		steps = r.p.back.Steps
	}
	for _, s := range steps {
		if s.Kind == plan.Ready && s.Member == name && r.p.done[s.ID] {
			return true
		}
	}
	return false
}

// stopMember ends the member after it has asked once more, at the last moment, whether
// the others hold quorum by themselves.
func (r *run) stopMember(ctx context.Context, s plan.Step) (string, error) {
	x := r.o.Hosts[s.Member]
	st, err := x.Inspect(ctx)
	if err != nil {
		return "", fmt.Errorf("inspect %s: %w", s.Member, err)
	}
	if !st.Running {
		return "was not running", nil
	}
	if err := r.mayStop(ctx, s); err != nil {
		return "", err
	}
	ctx = context.WithoutCancel(ctx) // asked to end, it cannot be asked to go on
	r.canary.avoid(s.Member)
	r.show.waiting("%s ends (SIGTERM; etcd 3.5 and later take up to 8 s while watches are open)", s.Member)
	begin := time.Now()
	err = bounded(ctx, r.limits.Stop, x.Stop)
	if err == nil {
		return "ended in " + short(time.Since(begin)), nil
	}
	if st, again := x.Inspect(ctx); again == nil && !st.Running {
		return "ended in " + short(time.Since(begin)), nil
	}
	return "", fmt.Errorf("%s was asked to end and has not ended within %s; it is never killed: %w", s.Member, r.limits.Stop, err)
}

// mayStop is the last check before a voter is stopped. A leader hands over first, and
// then the others are asked once more.
func (r *run) mayStop(ctx context.Context, s plan.Step) error {
	for moved := false; ; moved = true {
		views := r.observe(ctx)
		for _, v := range views {
			if v.Name == s.Member && v.Err == "" && v.Learner {
				return nil
			}
		}
		ok, alone, said := quorumWithout(views, s.Member)
		if !ok && !alone {
			return fmt.Errorf("not stopped: %s", said)
		}
		leader, found := leaderOf(views)
		if _, other := r.heir(views, s); moved || !found || !other || leader.Name != s.Member {
			return nil
		}
		if _, err := r.moveLeader(ctx, s); err != nil {
			return fmt.Errorf("not stopped: %w", err)
		}
	}
}

func (r *run) swap(ctx context.Context, s plan.Step) (string, error) {
	x := r.o.Hosts[s.Member]
	st, err := x.Inspect(ctx)
	if err != nil {
		return "", fmt.Errorf("inspect %s: %w", s.Member, err)
	}
	if st.Program == program(s.Target) {
		return "was " + st.Program.String() + " already", nil
	}
	if err := bounded(ctx, stageTimeout, func(ctx context.Context) error { return x.Swap(ctx, program(s.Target)) }); err != nil {
		return "", err
	}
	return st.Program.String() + " → " + program(s.Target).String(), nil
}

func (r *run) start(ctx context.Context, s plan.Step) (string, error) {
	x := r.o.Hosts[s.Member]
	st, err := x.Inspect(ctx)
	if err != nil {
		return "", fmt.Errorf("inspect %s: %w", s.Member, err)
	}
	if st.Running {
		return "was running already", nil
	}
	r.show.waiting("%s starts", s.Member)
	if err := bounded(ctx, stageTimeout, x.Start); err != nil {
		return "", err
	}
	return "runs", nil
}

// ready waits until the member is healthy, serves what it ought to, has caught up with
// the leader, and has the same hash as the others.
func (r *run) ready(ctx context.Context, s plan.Step) (string, error) {
	begin := time.Now()
	var target uint64
	ids := map[string]bool{}
	for {
		st, err := r.o.Hosts[s.Member].Inspect(ctx)
		if err == nil && !st.Running {
			return "", fmt.Errorf("%s ended right after its start (%s)", s.Member, st.Detail)
		}
		if err == nil {
			ids[st.ID] = true
		}
		if len(ids) > crashLimit {
			return "", fmt.Errorf("%s starts and ends again and again (%d starts seen)", s.Member, len(ids))
		}
		views := r.observe(ctx)
		if l, ok := leaderOf(views); ok && target == 0 {
			target = l.Index
		}
		v := named(views, s.Member)
		bad := trouble(v)
		if v.Err == "" && !v.Server.IsZero() {
			if text := right(v, s.Target); text != "" {
				return "", fmt.Errorf("%s runs the wrong program: %s", s.Member, text)
			}
		}
		switch {
		case bad == "" && target == 0:
			bad = "no member leads"
		case bad == "" && level(v) < target:
			bad = fmt.Sprintf("%s catches up: has applied %d of %d", s.Member, level(v), target)
		}
		if bad == "" {
			others := func(name string) bool { return trouble(named(views, name)) != "" }
			if err := r.sameHash(ctx, views, others); err != nil {
				return "", err
			}
			r.canary.avoid("")
			return fmt.Sprintf("%s, caught up, same hash", versionOf(v)), nil
		}
		r.show.waiting("%s", bad)
		if time.Since(begin) > r.limits.Catchup {
			return "", fmt.Errorf("after %s still: %s", short(time.Since(begin)), bad)
		}
		if err := r.pause(ctx); err != nil {
			return "", err
		}
	}
}

func named(views []view, name string) view {
	for _, v := range views {
		if v.Name == name {
			return v
		}
	}
	return view{Name: name, Err: "is not in the inventory"}
}

// atVersion says which members are not at a cluster version yet; storage too, where they
// tell it.
func (r *run) atVersion(ctx context.Context, views []view, want version.Version, lowering bool) (missing []string) {
	for _, v := range views {
		switch {
		case v.Err != "" && (r.p.broken[v.Name] || r.isDown(ctx, v.Name)): // it learns it when it is back
		case v.Err != "":
			missing = append(missing, trouble(v))
		case !v.Cluster.SameMinor(want):
			missing = append(missing, fmt.Sprintf("%s is at cluster version %s", v.Name, v.Cluster.MinorString()))
		case lowering && want.Less(v.Storage.Trunc()), !lowering && !v.Storage.IsZero() && v.Storage.Trunc().Less(want):
			missing = append(missing, fmt.Sprintf("%s has its storage at %s", v.Name, v.Storage.MinorString()))
		}
	}
	return missing
}

// awaitVersion waits until the cluster version is there. A downgrade that is enabled to
// an earlier version, from a way back that was begun once, would keep it down for ever
// and is cancelled.
func (r *run) awaitVersion(ctx context.Context, s plan.Step) (string, error) {
	want, err := version.Parse(s.Version + ".0")
	if err != nil {
		return "", fmt.Errorf("version %q of the plan: %w", s.Version, err)
	}
	begin, cancelled := time.Now(), false
	for {
		views := r.observe(ctx)
		missing := r.atVersion(ctx, views, want, false)
		if len(missing) == 0 {
			return "all members are at " + s.Version, nil
		}
		for _, v := range views {
			low := v.Lowering
			if cancelled || low.IsZero() || !low.Less(want) {
				continue
			}
			// The leader refuses as long as it takes a member for the older program.
			if err := r.w.unlower(ctx); err != nil {
				missing = append(missing, fmt.Sprintf("the downgrade to %s is enabled and cannot be cancelled yet (%s)", low.MinorString(), oneLine(err)))
				break
			}
			cancelled = true
			r.show.note("a downgrade to %s is enabled and keeps the version down: cancelled", low.MinorString())
		}
		r.show.waiting("cluster version %s: %s", s.Version, strings.Join(missing, ", "))
		if time.Since(begin) > r.limits.Catchup {
			return "", fmt.Errorf("cluster version %s is not there after %s: %s", s.Version, short(time.Since(begin)), strings.Join(missing, ", "))
		}
		if err := r.pause(ctx); err != nil {
			return "", err
		}
	}
}

// lower lowers the cluster version online. When the limit passes it is taken back.
func (r *run) lower(ctx context.Context, s plan.Step) (string, error) {
	want, err := version.Parse(s.Version + ".0")
	if err != nil {
		return "", fmt.Errorf("version %q of the plan: %w", s.Version, err)
	}
	begin, asked := time.Now(), false
	for {
		views := r.observe(ctx)
		missing := r.atVersion(ctx, views, want, true)
		if len(missing) == 0 {
			return "cluster version and storage are at " + s.Version, nil
		}
		if !asked {
			if err := r.enable(ctx, views, s.Version, want); err != nil {
				return "", err
			}
			asked = true
		}
		r.show.waiting("cluster version %s: %s", s.Version, strings.Join(missing, ", "))
		if time.Since(begin) > r.limits.Catchup {
			text := "taken back"
			if err := r.w.unlower(ctx); err != nil {
				text = "and it could not be taken back: " + oneLine(err)
			}
			return "", fmt.Errorf("the cluster version is not lowered to %s after %s (%s); %s", s.Version, short(time.Since(begin)), strings.Join(missing, ", "), text)
		}
		if err := r.pause(ctx); err != nil {
			return "", err
		}
	}
}

// enable asks for the downgrade unless it runs already.
func (r *run) enable(ctx context.Context, views []view, text string, want version.Version) error {
	var other, cluster version.Version
	for _, v := range views {
		if v.Lowering.SameMinor(want) {
			return nil
		}
		if other.Less(v.Lowering) {
			other = v.Lowering
		}
		if cluster.Less(v.Cluster) {
			cluster = v.Cluster
		}
	}
	if !canLower(views, cluster.Trunc(), want) {
		return fmt.Errorf("these members cannot lower the cluster version from %s to %s online: real etcd does it since 3.6, one minor at a time", cluster.MinorString(), text)
	}
	if !other.IsZero() {
		if err := r.w.unlower(ctx); err != nil {
			return fmt.Errorf("cancel the downgrade to %s: %w", other.MinorString(), err)
		}
	}
	if err := r.w.lower(ctx, text); err != nil {
		return fmt.Errorf("enable the downgrade to %s: %w", text, err)
	}
	return nil
}

func (r *run) finishHosts(ctx context.Context, s plan.Step) (string, error) {
	for _, name := range r.names {
		if s.Member != "" && s.Member != name {
			continue
		}
		if err := bounded(ctx, hostTimeout, r.o.Hosts[name].Finish); err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
	}
	return "nothing is kept for the way back but the backup", nil
}
