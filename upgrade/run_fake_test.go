package upgrade

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"theseus/upgrade/host"
	"theseus/upgrade/plan"
	"theseus/version"
)

// behaviour is what a program of the fake cluster does when it is started.
type behaviour struct {
	version version.Version
	theseus bool
	crashes bool // ends right after its start
	sick    bool // never gets healthy
	says    string
}

// fakeMember is one member of the fake cluster.
type fakeMember struct {
	name    string
	id      uint64
	learner bool
	running bool
	program string
	starts  int
	data    int // nobody may change it but the member itself
	hidden  bool
	stuck   bool // does not end on SIGTERM
	applied uint64
}

// fakeCluster is the second implementation of the wire and of the executors: a cluster
// in memory that breaks where a test says, and that notes every wrong that is done to it.
type fakeCluster struct {
	mu       sync.Mutex // members are asked at the same time
	members  []*fakeMember
	programs map[string]behaviour
	leader   uint64
	cluster  version.Version
	lowering version.Version
	index    uint64
	broken   map[string]bool
	wrongs   []string
	hook     func(what string)
	moves    int
	alarms   []plan.Alarm
	badHash  string // member with another hash

	announced []string // members that were told of a move ahead
}

func newFake(size int, program string) *fakeCluster {
	f := &fakeCluster{leader: 1, cluster: version.V3_4, index: 100, broken: map[string]bool{}, programs: map[string]behaviour{
		"/etcd-3.4":  {version: version.V(3, 4, 45)},
		"/etcd-3.5":  {version: version.V(3, 5, 35)},
		"/etcd-3.6":  {version: version.V(3, 6, 16)},
		"/etcd-3.7":  {version: version.V(3, 7, 3)},
		"/theseus":   {version: version.V(3, 7, 3), theseus: true},
		"/crashes":   {version: version.V(3, 7, 3), theseus: true, crashes: true},
		"/sick":      {version: version.V(3, 7, 3), theseus: true, sick: true},
		"/lies":      {version: version.V(3, 5, 35), says: "theseus Version: 1\netcd Version: 3.7.3"},
		"/etcd-3.4w": {version: version.V(3, 4, 1)},
	}}
	for i := range size {
		f.members = append(f.members, &fakeMember{name: fmt.Sprintf("m%d", i+1), id: uint64(i + 1), running: true, program: program, data: 7, applied: 100})
	}
	f.cluster = f.programs[program].version.Trunc()
	return f
}

func (f *fakeCluster) at(what string) {
	if f.hook != nil {
		f.hook(what)
	}
}

func (f *fakeCluster) member(name string) *fakeMember {
	for _, m := range f.members {
		if m.name == name {
			return m
		}
	}
	return &fakeMember{name: name}
}

func (f *fakeCluster) wrong(format string, args ...any) {
	f.wrongs = append(f.wrongs, fmt.Sprintf(format, args...))
}

// serves says whether a member takes part.
func (f *fakeCluster) serves(m *fakeMember) bool {
	return m.running && !f.programs[m.program].sick
}

// settle elects and decides the cluster version, as the cluster itself does.
func (f *fakeCluster) settle() {
	well, voters := 0, 0
	var heir uint64
	lowest := version.Version{}
	for _, m := range f.members {
		if !m.learner {
			voters++
		}
		if f.serves(m) && !m.learner {
			well++
			heir = m.id
		}
		if v := f.programs[m.program].version.Trunc(); lowest.IsZero() || v.Less(lowest) {
			lowest = v
		}
		if !m.running {
			lowest = version.V(3, 0, 0)
		}
	}
	if l := f.byID(f.leader); l == nil || !f.serves(l) {
		f.leader = heir
	}
	if well < voters/2+1 {
		f.leader = 0
		return
	}
	if f.cluster.Less(lowest) && f.lowering.IsZero() {
		f.cluster = lowest
	}
	if !f.lowering.IsZero() {
		f.cluster = f.lowering
		if lowest == f.lowering {
			f.lowering = version.Version{}
		}
	}
}

func (f *fakeCluster) byID(id uint64) *fakeMember {
	for _, m := range f.members {
		if m.id == id {
			return m
		}
	}
	return nil
}

func (f *fakeCluster) voters() (n int) {
	for _, m := range f.members {
		if !m.learner {
			n++
		}
	}
	return n
}

// downVoters counts voters that are down now and were not from the start.
func (f *fakeCluster) downVoters() (n int) {
	for _, m := range f.members {
		if !m.running && !m.learner && !f.broken[m.name] {
			n++
		}
	}
	return n
}

func (f *fakeCluster) look(_ context.Context, name string) view {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.index++
	m := f.member(name)
	b := f.programs[m.program]
	v := view{Name: name, Endpoint: "http://" + name}
	if !m.running || m.hidden {
		v.Err = "connection refused"
		return v
	}
	m.applied = min(f.index, m.applied+50)
	v.ID, v.ClusterID, v.Leader, v.Learner, v.Term = m.id, 9, f.leader, m.learner, 2
	v.Server, v.Cluster, v.Lowering = b.version, f.cluster, f.lowering
	if v.Healthy = !b.sick && f.leader != 0; b.sick {
		v.Leader = 0
	}
	if b.version.AtLeast(version.V3_6) {
		v.Storage = f.cluster
	}
	if b.theseus {
		v.Theseus = "1"
	}
	v.Index, v.Applied, v.Revision, v.Alarms = f.index, m.applied, 40, f.alarms
	for _, o := range f.members {
		v.Sees = append(v.Sees, plan.Peer{ID: o.id, Name: o.name, Learner: o.learner, Peers: []string{"http://" + o.name + ":2380"}, Clients: []string{"http://" + o.name}})
	}
	return v
}

func (f *fakeCluster) hash(_ context.Context, name string, rev int64) (plan.Hash, error) {
	h := plan.Hash{Revision: rev, Compacted: 1, Hash: 42}
	if name == f.badHash {
		h.Hash = 43
	}
	return h, nil
}

func (f *fakeCluster) announceMove(_ context.Context, follower string, _ uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.announced = append(f.announced, follower)
}

func (f *fakeCluster) moveLeader(_ context.Context, leader string, to uint64) error {
	if f.member(leader).id != f.leader {
		return errors.New("not leader")
	}
	if m := f.byID(to); m == nil || !f.serves(m) || m.learner {
		return errors.New("bad leader transferee")
	}
	f.leader, f.moves = to, f.moves+1
	f.at("moved leader")
	return nil
}

func (f *fakeCluster) lower(_ context.Context, to string) error {
	f.lowering, _ = version.Parse(to + ".0")
	f.settle()
	f.at("lowered")
	return nil
}

func (f *fakeCluster) unlower(context.Context) error {
	f.lowering = version.Version{}
	f.settle()
	f.at("unlowered")
	return nil
}

func (f *fakeCluster) touch(context.Context, string) error {
	if f.leader == 0 {
		return errors.New("no leader")
	}
	return nil
}

func (f *fakeCluster) close() {}

// fakeHost is the executor of one member.
type fakeHost struct {
	f *fakeCluster
	m *fakeMember
}

func (x *fakeHost) Inspect(context.Context) (host.State, error) {
	return host.State{Running: x.m.running, ID: fmt.Sprint(x.m.starts), Program: host.Program{Binary: x.m.program}, Detail: "as the fake has it"}, nil
}

func (x *fakeHost) Stage(_ context.Context, p host.Program) (string, error) {
	b, ok := x.f.programs[p.Binary]
	if !ok {
		return "", fmt.Errorf("no program %s", p)
	}
	x.f.at("staged")
	switch {
	case b.says != "":
		return b.says, nil
	case b.theseus:
		return "theseus Version: 1\netcd Version: " + b.version.String(), nil
	}
	return "etcd Version: " + b.version.String(), nil
}

func (x *fakeHost) Stop(ctx context.Context) error {
	if !x.m.running {
		return nil
	}
	if x.m.stuck {
		<-ctx.Done()
		return fmt.Errorf("stop %s: %w", x.m.name, host.ErrStillRunning)
	}
	if x.f.leader == x.m.id && x.f.voters() > 1 && x.f.serves(x.m) {
		x.f.wrong("%s was stopped while it led", x.m.name)
	}
	x.m.running = false
	if n := x.f.downVoters(); n > 1 {
		x.f.wrong("%d voters are down after %s was stopped", n, x.m.name)
	}
	x.f.settle()
	x.f.at("stopped " + x.m.name)
	return nil
}

func (x *fakeHost) Swap(_ context.Context, p host.Program) error {
	if x.m.running {
		x.f.wrong("%s was swapped while it ran", x.m.name)
		return host.ErrStillRunning
	}
	x.m.program = p.Binary
	x.f.at("swapped " + x.m.name)
	return nil
}

func (x *fakeHost) Start(context.Context) error {
	b, ok := x.f.programs[x.m.program]
	if !ok {
		return fmt.Errorf("start %s: no such program", x.m.program)
	}
	x.m.starts++
	x.m.running = !b.crashes && !b.version.Trunc().Less(x.f.cluster)
	x.f.settle()
	x.f.at("started " + x.m.name)
	return nil
}

func (x *fakeHost) Logs(context.Context, int) ([]string, error) {
	return []string{x.m.program + " says its last words"}, nil
}
func (x *fakeHost) Finish(context.Context) error { return nil }
func (x *fakeHost) Close() error                 { return nil }

func (f *fakeCluster) hosts() map[string]host.Executor {
	all := map[string]host.Executor{}
	for _, m := range f.members {
		all[m.name] = &fakeHost{f, m}
	}
	return all
}

// plan makes the plan to a program, with real etcd's hops on the way.
func (f *fakeCluster) plan(t testing.TB, to string, hops ...string) plan.Plan {
	t.Helper()
	target := func(p string) plan.Target {
		b := f.programs[p]
		if b.says != "" {
			b.version, b.theseus = version.V(3, 7, 3), true
		}
		return plan.Target{Version: b.version, Theseus: b.theseus, Binary: p}
	}
	facts := plan.Facts{Cluster: "fake", Taken: time.Unix(0, 0), Target: target(to), Limits: defaultLimits, Backup: plan.Archive{URL: "dir:/b", Free: 1 << 40}}
	for _, h := range hops {
		facts.Hops = append(facts.Hops, target(h))
	}
	for _, m := range f.members {
		v := f.look(t.Context(), m.name)
		v.Running, v.Binary, v.Snapshot, v.Quota = m.running, m.program, 1<<40, 1<<31
		v.Staged = map[string]string{}
		v.Hash = &plan.Hash{Revision: 40, Compacted: 1, Hash: 42}
		facts.Members = append(facts.Members, v)
	}
	p, remarks := plan.Make(facts)
	if len(p.Steps) == 0 {
		t.Fatalf("no plan: %+v", remarks)
	}
	return p
}

func (f *fakeCluster) inventory() *Inventory {
	inv := &Inventory{Cluster: "fake"}
	for _, m := range f.members {
		inv.Members = append(inv.Members, InventoryMember{Name: m.name, Endpoint: "http://" + m.name})
	}
	inv.Backup.Archive = "dir:/b"
	return inv
}

// check holds the cluster against what may never be.
func (f *fakeCluster) check(t testing.TB) {
	t.Helper()
	for _, w := range f.wrongs {
		t.Error(w)
	}
	for _, m := range f.members {
		if m.data != 7 {
			t.Errorf("the data of %s was touched", m.name)
		}
	}
}

// all says whether every member runs the program.
func (f *fakeCluster) all(program string) bool {
	return !slices.ContainsFunc(f.members, func(m *fakeMember) bool { return !m.running || m.program != program })
}
