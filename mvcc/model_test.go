package mvcc

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"theseus/api"
)

// model is the dumb store: every state there ever was, and the specification's
// own algorithms (interop 5.6, 5.8, D.3, D.4) over lists of generations.
type model struct {
	states    []map[string]*mvccpb.KeyValue // by main revision; 0 is not used
	events    [][]mevent                    // by main revision
	compacted int64
	index     map[string][][]Rev // generations; all but the last end with a tombstone
	file      map[string]string  // the bucket once compactions are done
}

type mevent struct {
	Key  string
	Del  bool
	Kv   *mvccpb.KeyValue
	Prev *mvccpb.KeyValue
}

func newModel() *model {
	return &model{
		states: []map[string]*mvccpb.KeyValue{nil, {}}, events: [][]mevent{nil, nil}, compacted: -1,
		index: map[string][][]Rev{}, file: map[string]string{},
	}
}

func (m *model) rev() int64 { return int64(len(m.states) - 1) }

// op is one operation of a write transaction.
type op struct {
	key, end, value string
	lease           int64
	del             bool
}

func (m *model) apply(ops []op) {
	next := maps.Clone(m.states[m.rev()])
	main := m.rev() + 1
	var events []mevent
	for _, o := range ops {
		if !o.del {
			kv := &mvccpb.KeyValue{Key: []byte(o.key), Lease: o.lease, CreateRevision: main, ModRevision: main, Version: 1}
			if o.value != "" {
				kv.Value = []byte(o.value)
			}
			if old := next[o.key]; old != nil {
				kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
			}
			events = append(events, mevent{Key: o.key, Kv: kv, Prev: next[o.key]})
			next[o.key] = kv
			continue
		}
		for _, k := range keysIn(next, o.key, o.end) {
			events = append(events, mevent{k, true, &mvccpb.KeyValue{Key: []byte(k), ModRevision: main}, next[k]})
			delete(next, k)
		}
	}
	if len(events) == 0 {
		return
	}
	for i, e := range events {
		m.record(e, Rev{main, int64(i)})
	}
	m.states, m.events = append(m.states, next), append(m.events, events)
}

// record files one change.
func (m *model) record(e mevent, r Rev) {
	value := e.Kv
	if e.Del {
		value = &mvccpb.KeyValue{Key: []byte(e.Key)}
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(value)
	if err != nil {
		panic(err)
	}
	m.file[string(newStamp(r, e.Del).appendKey(nil))] = string(raw)
	g := m.index[e.Key]
	if g == nil {
		g = [][]Rev{nil}
	}
	g[len(g)-1] = append(g[len(g)-1], r)
	if e.Del {
		g = append(g, nil)
	}
	m.index[e.Key] = g
}

// pick is D.3's, by the new rule.
func pick(g [][]Rev, r int64) (j, k int) {
	n := len(g) - 1
	for j < n && !(g[j][len(g[j])-1].Main >= r) {
		j++
	}
	k = -1
	for p, rev := range g[j] {
		if rev.Main <= r {
			k = p
		}
	}
	return j, k
}

func (m *model) compact(r int64) {
	m.compacted = r
	for key, g := range m.index {
		j, k := pick(g, r)
		keep := Rev{}
		if k >= 0 {
			keep = g[j][k]
		}
		for i := range g {
			for p, rev := range g[i] {
				if rev.Main <= r && rev != keep {
					tomb := i < len(g)-1 && p == len(g[i])-1
					delete(m.file, string(newStamp(rev, tomb).appendKey(nil)))
				}
			}
		}
		g = slices.Clone(g[j:])
		g[0] = g[0][max(k, 0):]
		if len(g) == 1 && len(g[0]) == 0 {
			delete(m.index, key)
		} else {
			m.index[key] = g
		}
	}
}

// hash is D.4.
func (m *model) hash(r int64) uint32 {
	keep := map[Rev]bool{}
	for _, g := range m.index {
		if j, k := pick(g, r); k >= 0 && !(k == len(g[j])-1 && j != len(g)-1) {
			keep[g[j][k]] = true
		}
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	h := crc32.Checksum([]byte("key"), table)
	for _, k := range slices.Sorted(maps.Keys(m.file)) {
		at, err := parseStamp([]byte(k))
		if err != nil {
			panic(err)
		}
		if at.main > r || at.main <= m.compacted && len(keep) > 0 && !keep[at.rev()] || at.main == m.compacted && at.tomb() {
			continue
		}
		h = crc32.Update(h, table, []byte(k))
		h = crc32.Update(h, table, []byte(m.file[k]))
	}
	return h
}

func keysIn(state map[string]*mvccpb.KeyValue, key, end string) []string {
	var in []string
	for k := range state {
		if end == "" && k == key || end == "\x00" && k >= key || end != "" && k >= key && k < end {
			in = append(in, k)
		}
	}
	slices.Sort(in)
	return in
}

// read is interop 5.3, step by step.
func (m *model) read(o RangeOptions) (kvs []*mvccpb.KeyValue, count int64, more bool, err error) {
	rev := o.Rev
	switch {
	case rev <= 0:
		rev = m.rev()
	case rev > m.rev():
		return nil, 0, false, api.ErrFutureRev
	case rev < m.compacted:
		return nil, 0, false, api.ErrCompacted
	}
	keys := keysIn(m.states[rev], string(o.Key), string(o.End))
	count = int64(len(keys))
	if o.CountOnly {
		return nil, count, false, nil
	}
	filtered := o.MinMod != 0 || o.MaxMod != 0 || o.MinCreate != 0 || o.MaxCreate != 0
	if o.SortOrder == pb.RangeRequest_NONE && !filtered && o.Limit > 0 && count > o.Limit+1 {
		keys = keys[:o.Limit+1]
	}
	for _, k := range keys {
		kv := m.states[rev][k]
		if o.MaxMod != 0 && kv.ModRevision > o.MaxMod || o.MinMod != 0 && kv.ModRevision < o.MinMod ||
			o.MaxCreate != 0 && kv.CreateRevision > o.MaxCreate || o.MinCreate != 0 && kv.CreateRevision < o.MinCreate {
			continue
		}
		kvs = append(kvs, proto.CloneOf(kv))
	}
	sortModel(kvs, o)
	if o.Limit > 0 && int64(len(kvs)) > o.Limit {
		kvs, more = kvs[:o.Limit], true
	}
	for _, kv := range kvs {
		if o.KeysOnly {
			kv.Value = nil
			if o.SortTarget != pb.RangeRequest_VALUE {
				kv.Lease = 0
			}
		}
	}
	return kvs, count, more, nil
}

func sortModel(kvs []*mvccpb.KeyValue, o RangeOptions) {
	order := o.SortOrder
	if o.SortTarget != pb.RangeRequest_KEY && order == pb.RangeRequest_NONE {
		order = pb.RangeRequest_ASCEND
	}
	if order == pb.RangeRequest_NONE {
		return
	}
	slices.SortStableFunc(kvs, func(a, b *mvccpb.KeyValue) int {
		c := 0
		switch o.SortTarget {
		case pb.RangeRequest_KEY:
			c = bytes.Compare(a.Key, b.Key)
		case pb.RangeRequest_VERSION:
			c = cmp.Compare(a.Version, b.Version)
		case pb.RangeRequest_CREATE:
			c = cmp.Compare(a.CreateRevision, b.CreateRevision)
		case pb.RangeRequest_MOD:
			c = cmp.Compare(a.ModRevision, b.ModRevision)
		case pb.RangeRequest_VALUE:
			c = bytes.Compare(a.Value, b.Value)
		}
		if order == pb.RangeRequest_DESCEND {
			return -c
		}
		return c
	})
}

// TestModel runs random operations on the store and on the dumb one, with
// compactions, restarts and crashes anywhere, and compares everything that can be
// asked.
func TestModel(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			o := Options{ValueBudgetBytes: []int64{0, 400, -1}[seed%3]}
			keys := []int{8, 60, 400}[seed/3%3]
			d := &duel{t: t, f: newFixture(t, o), m: newModel(), rng: rand.New(rand.NewPCG(seed, 3)), keys: keys}
			for range 500 {
				d.step()
			}
			d.finish()
		})
	}
}

type duel struct {
	t    *testing.T
	f    *fixture
	m    *model
	rng  *rand.Rand
	keys int
}

func (d *duel) key() string { return fmt.Sprintf("k%03d", d.rng.IntN(d.keys)) }

func (d *duel) step() {
	d.t.Helper()
	switch n := d.rng.IntN(40); {
	case n < 16:
		d.write(d.ops())
	case n == 16:
		d.compact()
	case n < 20:
		d.f.compactStep(1 + d.rng.IntN(12))
	case n == 20 && d.rng.IntN(4) == 0:
		d.f.reopen()
	case n < 23:
		d.hash()
	case n == 23:
		d.history()
	default:
		d.read()
	}
}

// ops makes a transaction that etcd's API would let pass: no key twice.
func (d *duel) ops() []op {
	ends := []string{"", "", "", "k1", "\x00"}
	switch d.rng.IntN(8) {
	case 0:
		return []op{{key: d.key(), end: ends[d.rng.IntN(len(ends))], del: true}}
	case 1, 2:
		return []op{{key: d.key(), del: true}}
	case 3:
		var ops []op
		for i := range 1 + d.rng.IntN(60) {
			ops = append(ops, op{key: fmt.Sprintf("t%03d", i*d.rng.IntN(3)+i*3), value: fmt.Sprint(d.rng.IntN(5))})
		}
		slices.SortFunc(ops, func(a, b op) int { return cmp.Compare(a.key, b.key) })
		ops = slices.CompactFunc(ops, func(a, b op) bool { return a.key == b.key })
		return append(ops, op{key: "k0", end: d.key(), del: true})
	}
	return []op{{key: d.key(), value: fmt.Sprint(d.rng.IntN(20))[d.rng.IntN(2):], lease: int64(d.rng.IntN(2))}}
}

func (d *duel) write(ops []op) {
	d.t.Helper()
	d.m.apply(ops)
	deleted := int64(0)
	events := d.f.unit(func(tx *Txn) {
		for _, o := range ops {
			if o.del {
				deleted += tx.DeleteRange([]byte(o.key), []byte(o.end))
			} else {
				tx.Put([]byte(o.key), []byte(o.value), o.lease)
			}
		}
	})
	rev, compacted := d.f.s.Revision()
	if rev != d.m.rev() || compacted != d.m.compacted {
		d.t.Fatalf("revision %d compacted %d, want %d, %d", rev, compacted, d.m.rev(), d.m.compacted)
	}
	if len(events) > 0 {
		d.same("events", d.m.events[rev], told(d.t, events, nil))
	}
	if n := d.f.s.Len(); n != int64(len(d.m.states[rev])) {
		d.t.Fatalf("%d keys, want %d", n, len(d.m.states[rev]))
	}
}

func (d *duel) same(what string, want, got any) {
	d.t.Helper()
	if diff := gocmp.Diff(want, got, protoEqual); diff != "" {
		d.t.Fatalf("%s at revision %d (-model +store):\n%s", what, d.m.rev(), diff)
	}
}

var protoEqual = gocmp.Comparer(func(a, b *mvccpb.KeyValue) bool { return proto.Equal(a, b) })

// told turns events into the model's form; s, if any, is asked for what was before.
func told(t *testing.T, events []Event, s *Store) []mevent {
	t.Helper()
	var out []mevent
	for i := range events {
		e := &events[i]
		m := mevent{Key: string(e.Key), Del: e.Delete, Kv: decoded(t, e.Raw)}
		prev := e.Prev
		if s != nil {
			prev = s.Prev(e)
		} else if e.Prev != nil && (KV{Raw: e.Prev}).Raw != nil {
			if kv := decoded(t, e.Prev); kv.Lease != e.PrevLease {
				t.Errorf("previous lease %d, want %d", e.PrevLease, kv.Lease)
			}
		}
		if prev != nil {
			m.Prev = decoded(t, prev)
		}
		if e.Create != m.Kv.CreateRevision || e.Lease != m.Kv.Lease || e.Rev.Main != m.Kv.ModRevision || e.Rev.Sub != int64(i) {
			t.Errorf("event %+v of %v", e, m.Kv)
		}
		out = append(out, m)
	}
	return out
}

func decoded(t *testing.T, raw []byte) *mvccpb.KeyValue {
	t.Helper()
	kv := &mvccpb.KeyValue{}
	if err := proto.Unmarshal(raw, kv); err != nil {
		t.Fatal(err)
	}
	return kv
}

func (d *duel) compact() {
	d.t.Helper()
	rev := d.m.rev() + 1 - d.rng.Int64N(30)
	var want error
	if rev <= d.m.compacted {
		want = api.ErrCompacted
	} else if rev > d.m.rev() {
		want = api.ErrFutureRev
	}
	if err := d.f.compact(rev); !errors.Is(err, want) {
		d.t.Fatalf("compact(%d) = %v, want %v", rev, err, want)
	}
	if want == nil {
		d.m.compact(rev)
	}
}

func (d *duel) hash() {
	d.t.Helper()
	rev := d.m.compacted - 1 + d.rng.Int64N(d.m.rev()-d.m.compacted+3)
	if d.rng.IntN(3) == 0 || rev < 0 {
		rev = 0
	}
	h, err := d.f.s.HashKV(rev)
	switch {
	case rev == 0:
		rev = d.m.rev()
	case rev < d.m.compacted:
		d.same("error", api.ErrCompacted.Error(), fmt.Sprint(err))
		return
	case rev > d.m.rev():
		d.same("error", api.ErrFutureRev.Error(), fmt.Sprint(err))
		return
	}
	want := Hash{d.m.hash(rev), d.m.compacted, rev, d.m.rev()}
	if err != nil || h != want {
		d.t.Fatalf("hash %+v, %v, want %+v", h, err, want)
	}
}

func (d *duel) read() {
	d.t.Helper()
	ends := []string{"", "", "k1", "k2", "z", "\x00", "a"}
	o := RangeOptions{Key: []byte(d.key()), End: []byte(ends[d.rng.IntN(len(ends))])}
	if d.rng.IntN(3) == 0 {
		o.Key = []byte("k")
	}
	if d.rng.IntN(2) == 0 {
		o.Rev = d.m.rev() + 1 - d.rng.Int64N(40)
	}
	o.CountOnly, o.KeysOnly = d.rng.IntN(6) == 0, d.rng.IntN(4) == 0
	if d.rng.IntN(2) == 0 {
		o.Limit = d.rng.Int64N(12) - 1
	}
	if d.rng.IntN(2) == 0 {
		o.SortTarget = pb.RangeRequest_SortTarget(d.rng.IntN(5))
		o.SortOrder = pb.RangeRequest_SortOrder(d.rng.IntN(3))
	}
	for _, filter := range []*int64{&o.MinMod, &o.MaxMod, &o.MinCreate, &o.MaxCreate} {
		if d.rng.IntN(8) == 0 {
			*filter = d.rng.Int64N(d.m.rev() + 1)
		}
	}
	want, count, more, wantErr := d.m.read(o)
	got, err := d.f.s.Range(o)
	if !errors.Is(err, wantErr) || got.Rev != d.m.rev() {
		d.t.Fatalf("%+v: %v at %d, want %v at %d", o, err, got.Rev, wantErr, d.m.rev())
	}
	if err != nil {
		return
	}
	var kvs []*mvccpb.KeyValue
	for _, raw := range got.KVs {
		kvs = append(kvs, decoded(d.t, raw))
	}
	d.same(fmt.Sprintf("range %+v", o), want, kvs)
	if got.Count != count || got.More != more {
		d.t.Fatalf("%+v: count %d more %v, want %d %v", o, got.Count, got.More, count, more)
	}
	if kv, ok := d.f.s.Get(o.Key); ok != (d.m.states[d.m.rev()][string(o.Key)] != nil) {
		d.t.Fatalf("get %q: %+v %v", o.Key, kv, ok)
	}
}

// history reads the events of all revisions that are left.
func (d *duel) history() {
	d.t.Helper()
	next := max(d.m.compacted+1, 2)
	for next <= d.m.rev() {
		to, revs := next+d.rng.Int64N(30), d.rng.IntN(7)
		before := next
		var err error
		next, err = d.f.s.Events(next, to, revs, func(events []Event) error {
			rev := events[0].Rev.Main
			want := slices.Clone(d.m.events[rev])
			for i := range want {
				if rev-1 < d.m.compacted {
					want[i].Prev = nil
				}
			}
			d.same("events", want, told(d.t, events, d.f.s))
			if rev != before {
				d.t.Fatalf("events of %d, want those of %d", rev, before)
			}
			before++
			return nil
		})
		if err != nil || next != before {
			d.t.Fatalf("next %d, want %d: %v", next, before, err)
		}
	}
}

// finish compares the bucket, once all compactions are done, and the tree's shape.
func (d *duel) finish() {
	d.t.Helper()
	d.history()
	for f := d.f; f.compactStep(5); {
	}
	d.same("bucket", d.m.file, d.f.records())
	d.hash()
	if err := d.f.s.tree.check(); err != nil {
		d.t.Fatal(err)
	}
	d.f.reopen()
	d.same("bucket after a restart", d.m.file, d.f.records())
	d.hash()
	if err := d.f.s.tree.check(); err != nil {
		d.t.Fatal(err)
	}
	for range 50 {
		d.read()
	}
}
