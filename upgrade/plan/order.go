package plan

import (
	"cmp"
	"fmt"
	"slices"

	"theseus/version"
)

// cluster is what the members' accounts come to.
type cluster struct {
	peers   []Peer          // the membership that most members see
	version version.Version // the cluster's, by the highest account
	leader  uint64          // by most accounts; 0: none
	theseus bool            // every member that answers is Theseus
	above   bool            // a real etcd of a higher minor than the cluster version runs
	lowest  version.Version // minor of real etcd; zero: none runs
}

// lagLimit is how many entries a member may be behind and still be level.
const lagLimit = 5000

// see sums the accounts up.
func see(f Facts) cluster {
	c := cluster{theseus: true}
	views, leaders := map[string]int{}, map[uint64]int{}
	best, answers := 0, 0
	for _, m := range f.Members {
		if m.Err != "" {
			continue
		}
		answers++
		if c.version.Less(m.Cluster) {
			c.version = m.Cluster
		}
		if m.Theseus == "" {
			c.theseus = false
			if c.lowest.IsZero() || m.Server.Less(c.lowest) {
				c.lowest = m.Server.Trunc()
			}
		}
		if leaders[m.Leader]++; m.Leader != 0 && leaders[m.Leader] > leaders[c.leader] {
			c.leader = m.Leader
		}
		key := fmt.Sprint(m.Sees)
		if views[key]++; views[key] > best && len(m.Sees) > 0 {
			best, c.peers = views[key], m.Sees
		}
	}
	c.theseus = c.theseus && answers > 0
	for _, m := range f.Members {
		c.above = c.above || m.Err == "" && m.Theseus == "" && c.version.Trunc().Less(m.Server.Trunc())
	}
	return c
}

// voters are those peers that count for a quorum, started or not.
func (c cluster) voters() (all []Peer) {
	for _, p := range c.peers {
		if !p.Learner {
			all = append(all, p)
		}
	}
	return all
}

func (c cluster) quorum() int { return len(c.voters())/2 + 1 }

// voter tells whether a member votes. One that does not answer is found by its name.
func (c cluster) voter(m Member) bool {
	p, ok := c.peer(m)
	return !ok && !m.Learner || ok && !p.Learner
}

func (c cluster) peer(m Member) (Peer, bool) {
	for _, p := range c.peers {
		if m.ID != 0 && p.ID == m.ID || m.ID == 0 && p.Name == m.Name {
			return p, true
		}
	}
	return Peer{}, false
}

// level says that a member counts for the quorum of the others: it answers, is well,
// sees a leader and is not far behind.
func (f Facts) level(m Member) bool {
	return m.Err == "" && m.Healthy && m.Leader != 0 && f.Lag(m) <= lagLimit
}

// Lag is how far a member's log is behind the furthest one's.
func (f Facts) Lag(m Member) uint64 {
	top := uint64(0)
	for _, o := range f.Members {
		if o.Err == "" {
			top = max(top, o.Index)
		}
	}
	return top - min(top, cmp.Or(m.Applied, m.Index))
}

// order sorts the members of one leg: the dead first, since no other can be stopped
// before; then what ails; then learners, followers, and the leader last.
func (m *maker) order() []Member {
	rank := func(x Member) int {
		switch up := m.up[x.Name]; {
		case !up && x.Err != "":
			return 0
		case !up:
			return 1
		case x.Name == m.leader:
			return 4
		case !m.c.voter(x):
			return 2
		}
		return 3
	}
	all := slices.Clone(m.f.Members)
	slices.SortStableFunc(all, func(a, b Member) int { return cmp.Compare(rank(a), rank(b)) })
	return all
}

// maker writes the steps of a plan. It keeps what will be true at each point.
type maker struct {
	f       Facts
	c       cluster
	plan    *Plan
	leader  string            // the member that leads at this point; a dead one has no ID
	up      map[string]bool   // members that will be well
	at      map[string]Target // what each will run
	way     WayBack
	raised  version.Version // the cluster version at this point
	touched map[string]bool
	short   string // a voter that could not be stopped without losing quorum
}

func (m *maker) run(route []leg) {
	m.leader, m.raised, m.way = m.f.nameOf(m.c.leader), m.c.version.Trunc(), NothingDone
	m.up, m.at, m.touched = map[string]bool{}, map[string]Target{}, map[string]bool{}
	for _, x := range m.f.Members {
		m.up[x.Name] = m.f.level(x)
		m.at[x.Name] = Target{Version: x.Server, Theseus: x.Theseus != "", Product: x.Theseus, Binary: x.Binary, Image: x.Image}
	}
	if !m.needed(route) {
		return
	}
	m.stage(route)
	if !m.f.Scratch && m.c.leader != 0 {
		m.add(Step{Kind: Backup, Why: "nothing is touched before a backup has been taken from a member that is up to date, and restored in proof"})
	}
	for _, l := range route {
		m.leg(l)
	}
}

// needed tells whether anything is to be done at all.
func (m *maker) needed(route []leg) bool {
	for _, l := range route {
		for _, x := range m.f.Members {
			if !l.there(x) {
				return true
			}
		}
	}
	last := route[len(route)-1]
	return last.await != m.raised
}

// goes are the members that a leg moves, with what they will run by then.
func (m *maker) goes(l leg) (all []Member) {
	for _, x := range m.order() {
		if !l.there(m.now(x)) {
			all = append(all, x)
		}
	}
	return all
}

// now is a member as it will be at this point of the plan.
func (m *maker) now(x Member) Member {
	if t := m.at[x.Name]; m.touched[x.Name] {
		x.Err, x.Server, x.Theseus = "", t.Version, ""
		if t.Theseus {
			x.Theseus = cmp.Or(t.Product, "unknown")
		}
	}
	return x
}

// stage puts every program that will be needed in place, before anything is stopped.
func (m *maker) stage(route []leg) {
	at, touched := m.at, m.touched
	m.at, m.touched = map[string]Target{}, map[string]bool{}
	defer func() { m.at, m.touched = at, touched }()
	for k, v := range at {
		m.at[k] = v
	}
	for _, l := range route {
		for _, x := range m.goes(l) {
			t := l.target.of(x)
			m.add(Step{Kind: Stage, Member: x.Name, Target: &t, Why: "a program that cannot be started is found now, not when the member is down"})
			m.at[x.Name], m.touched[x.Name] = l.target, true
		}
	}
}

// leg writes one pass.
func (m *maker) leg(l leg) {
	lowers := !l.lower.IsZero() && l.lower.Less(m.raised)
	if lowers {
		m.way = SwapBack
		m.add(Step{Kind: Lower, Version: l.lower.MinorString(), Why: fmt.Sprintf("%s does not start in a cluster of %s", l.target, m.raised.MinorString())})
		m.raised = l.lower
	}
	all := m.goes(l)
	for _, x := range all {
		m.member(l, x)
	}
	waits := m.raised.Less(l.await)
	if waits { // nothing holds it any more: it rises by itself
		m.rise(l, l.await)
	}
	if len(all) > 0 || lowers || waits {
		m.add(Step{Kind: AwaitVersion, Version: l.await.MinorString(), Why: "every member sees the cluster version, which the leader decides within seconds of the last member's start"})
	}
}

// rises looks whether the cluster version can go up now that a member has been moved:
// it does as soon as no member holds it down. It tells whether that is the point from
// which only the backup leads back.
func (m *maker) rises(l leg) bool {
	low := version.Version{}
	for _, x := range m.f.Members {
		now := m.now(x)
		v := now.Server.Trunc()
		switch {
		case now.Err != "":
			return false // nobody raises it past a member that does not tell its version
		case now.Theseus != "":
			v = version.Current.Trunc()
		}
		if low.IsZero() || v.Less(low) {
			low = v
		}
	}
	return !l.down && m.raised.Less(low) && m.rise(l, low)
}

// rise notes the way back once the cluster version is above the one it was.
func (m *maker) rise(l leg, to version.Version) (point bool) {
	was := m.way
	lowers := m.c.version.AtLeast(version.V3_5) || l.target.Theseus && m.c.version.AtLeast(version.FloorDowngrade)
	if m.way = LowerFirst; !lowers || was == Restore {
		m.way = Restore
	}
	m.raised = to
	return was != Restore && m.way == Restore
}

// member writes the steps that move one member.
func (m *maker) member(l leg, x Member) {
	t, before, up, name := l.target.of(x), m.at[x.Name], m.up[x.Name], x.Name
	m.add(Step{Kind: Gate, Member: name, Why: m.gateWhy(x, up)})
	if x.Name == m.leader && len(m.c.voters()) > 1 {
		m.handOver(l, x)
	}
	if m.way == NothingDone {
		m.way = SwapBack
	}
	if up || x.Err == "" || x.Running {
		m.add(Step{Kind: Stop, Member: name, Why: m.stopWhy(x, up)})
	}
	m.add(Step{Kind: Swap, Member: name, Before: &before, Target: &t, Why: fmt.Sprintf("%s in place of %s, on the same data", t, m.now(x).Runs())})
	m.at[name], m.touched[name], m.up[name] = t, true, true
	was := m.raised
	point := m.rises(l)
	why := "it goes on where it stopped"
	if was.Less(m.raised) {
		why = fmt.Sprintf("no member holds the cluster version at %s any more: it rises to %s", was.MinorString(), m.raised.MinorString())
	}
	m.add(Step{Kind: Start, Member: name, Point: point, Why: why})
	m.add(Step{Kind: Ready, Member: name, Target: &t, Why: "no other member is touched before this one is healthy and level again"})
}

// stopWhy says why a member may be stopped. If it may not, the plan is given up.
func (m *maker) stopWhy(x Member, up bool) string {
	others := 0
	for _, o := range m.f.Members {
		if o.Name != x.Name && m.c.voter(o) && m.up[o.Name] {
			others++
		}
	}
	switch {
	case !m.c.voter(x):
		return "a learner does not count for the quorum"
	case len(m.c.voters()) == 1:
		return "it is the only voter: nothing is served until it is ready again"
	case others < m.c.quorum():
		m.short = cmp.Or(m.short, x.Name)
	case !up && x.Err != "":
		return "its process is there and does not answer; the others hold quorum without it already"
	}
	return "the others hold quorum without it"
}

func (m *maker) gateWhy(x Member, up bool) string {
	if !up && x.Err != "" {
		return "what is broken goes first: no voter may be stopped while this one is down"
	}
	return "everything must be well, with quorum even without " + x.Name
}

// handOver moves the leadership to a voter that is at the leg's target already.
func (m *maker) handOver(l leg, x Member) {
	var to *Member
	for i := range m.f.Members {
		o := &m.f.Members[i]
		if o.Name != x.Name && m.c.voter(*o) && m.up[o.Name] && (to == nil || !l.there(m.now(*to)) && l.there(m.now(*o))) {
			to = o
		}
	}
	if to == nil || m.at[x.Name].Version.Less(version.V3_3) && !m.at[x.Name].Theseus {
		return // margin has remarked on it
	}
	m.leader = to.Name
	m.add(Step{Kind: MoveLeader, Member: x.Name, To: to.Name, Why: "a leader that is stopped costs an election; one that has handed over costs nothing"})
}

func (m *maker) add(s Step) {
	s.ID = fmt.Sprintf("%02d-", len(m.plan.Steps)+1)
	if s.Member != "" {
		s.ID += s.Member + "-"
	}
	s.ID += string(s.Kind)
	s.WayBack = m.way
	m.plan.Steps = append(m.plan.Steps, s)
}
