package upgrade

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"theseus/upgrade/host"
	"theseus/upgrade/plan"
	"theseus/version"
)

// Bounds of what a run asks, and how often. A wait ends with what is measured; these
// only say when it is given up.
const (
	pollEvery    = 150 * time.Millisecond
	lookTimeout  = 2 * time.Second
	moveTimeout  = 10 * time.Second
	touchTimeout = 10 * time.Second
	settleLimit  = time.Minute // for a member that ought to be healthy, and is not, before a gate gives up
	crashLimit   = 3           // starts of a member by its supervisor before it is called a crash loop
)

// level is how far a member has applied the log; before 3.4 only how far it has it.
func level(v view) uint64 {
	if v.Applied > 0 {
		return v.Applied
	}
	return v.Index
}

// fine says that a member is well by its own account.
func fine(v view) bool { return v.Err == "" && v.Healthy && v.Leader != 0 }

// trouble is why a member is not fine.
func trouble(v view) string {
	switch {
	case v.Err != "":
		return v.Name + " does not answer (" + v.Err + ")"
	case v.Leader == 0:
		return v.Name + " sees no leader"
	case !v.Healthy && v.Reason != "":
		return v.Name + " is not healthy (" + v.Reason + ")"
	case !v.Healthy:
		return v.Name + " is not healthy"
	}
	return ""
}

// leaderOf is the view of the member that the fine members call leader.
func leaderOf(views []view) (view, bool) {
	for _, v := range views {
		if v.Err == "" && v.Leader != 0 && v.Leader == v.ID {
			return v, true
		}
	}
	return view{}, false
}

// voters are the IDs of the voting members as most fine members have them.
func voters(views []view) []uint64 {
	count, best, ids := map[string]int{}, 0, []uint64(nil)
	for _, v := range views {
		if !fine(v) {
			continue
		}
		var all []uint64
		for _, p := range v.Sees {
			if !p.Learner {
				all = append(all, p.ID)
			}
		}
		slices.Sort(all)
		key := fmt.Sprint(all)
		if count[key]++; count[key] > best {
			best, ids = count[key], all
		}
	}
	return ids
}

// quorumWithout says whether the voters hold quorum by their own accounts when the named
// member is gone, and the sentence for people. The only voter, and either of two, cannot
// be replaced: alone is then true.
func quorumWithout(views []view, name string) (ok, alone bool, text string) {
	ids := voters(views)
	need, well := len(ids)/2+1, []string{}
	for _, v := range views {
		if v.Name != name && fine(v) && !v.Learner && slices.Contains(ids, v.ID) {
			well = append(well, v.Name)
		}
	}
	text = fmt.Sprintf("%d of %d voters are well without %s (%s), quorum is %d", len(well), len(ids), name, strings.Join(well, ", "), need)
	alone = len(ids) > 0 && len(ids) <= 2 && len(well) == len(ids)-1
	return len(ids) > 0 && len(well) >= need, alone, text
}

// gated is one round of a gate: what is not there yet, and what will not come by waiting.
type gated struct {
	wait  []string // goes by itself: a member that starts, lags or elects
	lag   bool     // only of members that catch up
	never []string // needs hands
}

// judge holds one look at all members against what a gate asks. excuse says of a member
// that it need not be well; target is the log index that everyone must have applied.
func judge(views []view, excuse func(name string) bool, target uint64) (g gated) {
	var seen []view
	for _, v := range views {
		for _, a := range v.Alarms {
			if text := fmt.Sprintf("alarm %s is raised by member %x", a.Name, a.Member); v.Err == "" && !slices.Contains(g.never, text) {
				g.never = append(g.never, text)
			}
		}
		if excuse(v.Name) {
			continue
		}
		if text := trouble(v); text != "" {
			g.wait = append(g.wait, text)
			continue
		}
		seen = append(seen, v)
	}
	for _, v := range seen {
		first := seen[0]
		if v.ClusterID != first.ClusterID {
			g.never = append(g.never, fmt.Sprintf("%s is of cluster %x, %s of %x: the inventory mixes two clusters", v.Name, v.ClusterID, first.Name, first.ClusterID))
		} else if v.Leader != first.Leader {
			g.wait = append(g.wait, fmt.Sprintf("%s follows %x, %s follows %x", v.Name, v.Leader, first.Name, first.Leader))
		} else if a, b := membership(v), membership(first); a != b {
			g.wait = append(g.wait, fmt.Sprintf("%s sees the members %s, %s sees %s", v.Name, a, first.Name, b))
		}
	}
	g.lag = len(g.wait) == 0
	for _, v := range seen {
		if n := level(v); n < target {
			g.wait = append(g.wait, fmt.Sprintf("%s has applied %d of %d", v.Name, n, target))
		}
	}
	g.lag = g.lag && len(g.wait) > 0
	return g
}

func membership(v view) string {
	var all []string
	for _, p := range v.Sees {
		kind := ""
		if p.Learner {
			kind = " learner"
		}
		all = append(all, fmt.Sprintf("%x%s", p.ID, kind))
	}
	slices.Sort(all)
	return "[" + strings.Join(all, " ") + "]"
}

// gate waits until every member that ought to be is healthy and level, quorum is there
// without the next one, hashes are equal and a canary passes.
func (r *run) gate(ctx context.Context, s plan.Step) (string, error) {
	if text := r.canary.stalled(r.limits.Stall); text != "" {
		return "", fmt.Errorf("writes stood still for %s, the limit is %s: find out why before the next member is touched", text, r.limits.Stall)
	}
	if err := r.expected(ctx, s); err != nil {
		return "", err
	}
	excuse := r.excused(ctx, s)
	views, err := r.settle(ctx, excuse)
	if err != nil {
		return "", err
	}
	text := "all healthy and level"
	if s.Member != "" && r.voter(views, s.Member) {
		ok, alone, said := quorumWithout(views, s.Member)
		if !ok && !alone {
			return "", fmt.Errorf("%s: start or repair the others first", said)
		}
		text = said
	}
	if err := r.sameHash(ctx, views, excuse); err != nil {
		return "", err
	}
	r.show.waiting("a canary write, read, watch event and lease pass")
	if err := r.w.touch(ctx, s.Member); err != nil {
		return "", fmt.Errorf("canary: %v", err)
	}
	return text + ", hashes equal, canary passed", nil
}

// expected holds what the next member runs against what the plan takes it for: a plan of
// yesterday is not carried out on a cluster of today.
func (r *run) expected(ctx context.Context, s plan.Step) error {
	x := r.o.Hosts[s.Member]
	i := slices.IndexFunc(r.steps, func(t plan.Step) bool { return t.ID == s.ID })
	if x == nil || i < 0 { // on the way back every program gives way to the one of before
		return nil
	}
	st, err := x.Inspect(ctx)
	if err != nil {
		return fmt.Errorf("inspect %s: %w", s.Member, err)
	}
	from, to := group(r.steps, i)
	for _, t := range r.steps[from:to] {
		if t.Kind == plan.Swap && t.Before != nil && program(t.Before) != (host.Program{}) && st.Program != program(t.Before) && st.Program != program(t.Target) {
			return fmt.Errorf("%s runs %s, and the plan was made for %s: make a new plan", s.Member, st.Program, program(t.Before))
		}
	}
	return nil
}

// excused are the members that a gate does not ask to be well: the next one when it is
// down, or goes back for not being well, and those that were broken when the run began and whose turn is yet to come.
func (r *run) excused(ctx context.Context, s plan.Step) func(string) bool {
	turn := map[string]bool{}
	for _, t := range r.steps {
		if t.Kind == plan.Ready && r.p.done[t.ID] {
			turn[t.Member] = true
		}
	}
	next := r.p.back != nil || r.isDown(ctx, s.Member)
	return func(name string) bool {
		return name == s.Member && next || r.p.broken[name] && !turn[name]
	}
}

// isDown says that a member does not run, as its host has it.
func (r *run) isDown(ctx context.Context, name string) bool {
	x := r.o.Hosts[name]
	if x == nil {
		return false
	}
	st, err := x.Inspect(ctx)
	return err == nil && !st.Running
}

// voter says whether the member is one, as the others see it. One that nobody can name
// counts as a voter.
func (r *run) voter(views []view, name string) bool {
	for _, v := range views {
		if v.Name == name && v.Err == "" {
			return !v.Learner
		}
	}
	for _, v := range views {
		for _, p := range v.Sees {
			if p.Name == name {
				return !p.Learner
			}
		}
	}
	return true
}

// settle waits until judge has nothing more to wait for.
func (r *run) settle(ctx context.Context, excuse func(string) bool) ([]view, error) {
	var target uint64
	begin, moved := time.Now(), time.Now()
	last := ""
	for {
		views := r.observe(ctx)
		if l, ok := leaderOf(views); ok && target == 0 {
			target = l.Index
		}
		g := judge(views, excuse, target)
		if len(g.never) > 0 {
			return nil, fmt.Errorf("%s", strings.Join(g.never, "; "))
		}
		if len(g.wait) == 0 && target > 0 {
			return views, nil
		}
		if target == 0 {
			g.wait = append(g.wait, "no member leads")
		}
		said := strings.Join(g.wait, "; ")
		if said != last {
			last, moved = said, time.Now()
		}
		r.show.waiting("%s", said)
		limit := min(settleLimit, r.limits.Catchup)
		if g.lag {
			limit = r.limits.Catchup
		}
		if over := time.Since(begin); over > r.limits.Catchup || !g.lag && time.Since(moved) > limit {
			return nil, fmt.Errorf("after %s still: %s", short(over), said)
		}
		if err := r.pause(ctx); err != nil {
			return nil, err
		}
	}
}

// sameHash asks the members for their hashes at one revision. A difference is believed
// when a second, later revision shows it again; members that cannot tell, or compacted
// differently, are unknown and not equal, which is said.
func (r *run) sameHash(ctx context.Context, views []view, excuse func(string) bool) error {
	for try := 0; ; try++ {
		r.show.waiting("hashes of all members at one revision")
		rev := int64(0)
		for _, v := range views {
			if !excuse(v.Name) && v.Err == "" && (rev == 0 || v.Revision < rev) {
				rev = v.Revision
			}
		}
		differ := r.differ(ctx, views, excuse, rev)
		if differ == "" {
			return nil
		}
		if try == 2 {
			return fmt.Errorf("%s: find the member that is wrong before anything is stopped ('etcdctl endpoint hashkv', 'theseus upgrade check')", differ)
		}
		if err := r.pause(ctx); err != nil {
			return err
		}
		views = r.observe(ctx)
	}
}

func (r *run) differ(ctx context.Context, views []view, excuse func(string) bool, rev int64) string {
	first, who := plan.Hash{}, ""
	type answer struct {
		h   plan.Hash
		err error
	}
	answers := make([]answer, len(views))
	each(len(views), func(i int) {
		if v := views[i]; !excuse(v.Name) && v.Err == "" {
			answers[i].h, answers[i].err = r.w.hash(ctx, v.Name, rev)
		} else {
			answers[i].err = errNotAsked
		}
	})
	for i, a := range answers {
		switch {
		case a.err == errNotAsked:
		case a.err != nil:
			r.show.note("%s does not tell its hash: %s", views[i].Name, oneLine(a.err))
		case who == "":
			first, who = a.h, views[i].Name
		case a.h.Compacted != first.Compacted:
			r.show.note("%s and %s compacted at different revisions, their hashes cannot be compared", who, views[i].Name)
		case a.h.Hash != first.Hash:
			return fmt.Sprintf("at revision %d %s has hash %d and %s %d", rev, who, first.Hash, views[i].Name, a.h.Hash)
		}
	}
	return ""
}

// right says whether a member serves what it ought to, and why not.
func right(v view, want *plan.Target) string {
	if want == nil || want.Version.IsZero() {
		return ""
	}
	switch is := v.Server; {
	case !is.SameMinor(want.Version):
		return fmt.Sprintf("it serves %s, expected was %s", is, want.Version)
	case want.Theseus && v.Theseus == "":
		return fmt.Sprintf("it is etcd %s, expected was Theseus", is)
	case !want.Theseus && v.Theseus != "":
		return fmt.Sprintf("it is Theseus, expected was etcd %s", want.Version)
	case !want.Theseus && want.Version.Patch != 0 && is.Patch != want.Version.Patch:
		return fmt.Sprintf("it serves %s, expected was %s", is, want.Version)
	}
	return ""
}

func program(t *plan.Target) host.Program {
	if t == nil {
		return host.Program{}
	}
	return host.Program{Binary: t.Binary, Image: t.Image}
}

// canLower says whether the members can lower the cluster version online to a target:
// Theseus to 3.4 at once, real etcd since 3.6 by one minor. Real 3.5 has the request and
// ends in a dead end.
func canLower(views []view, cluster, to version.Version) bool {
	if to.Less(version.FloorDowngrade) {
		return false
	}
	for _, v := range views { // one that is down cannot lower anything, nor hinder it
		if v.Err == "" && v.Theseus == "" && (v.Server.Less(version.V3_6) || !to.OneBelow(cluster)) {
			return false
		}
	}
	return true
}
