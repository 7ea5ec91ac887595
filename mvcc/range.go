package mvcc

import (
	"bytes"
	"cmp"
	"errors"
	"math/bits"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"theseus/api"
)

// RangeOptions says what to read. Key and End are those of the wire: an empty End
// means the one key, a single zero byte everything from Key on. Rev ≤ 0 is the
// current revision and Limit ≤ 0 is none; zero in the four filters is none.
type RangeOptions struct {
	Key, End                             []byte
	Rev, Limit                           int64
	CountOnly, KeysOnly                  bool
	SortTarget                           pb.RangeRequest_SortTarget
	SortOrder                            pb.RangeRequest_SortOrder
	MinMod, MaxMod, MinCreate, MaxCreate int64
}

// RangeResult is the answer to a range.
type RangeResult struct {
	KVs   [][]byte // encoded KeyValues, not to be modified
	Count int64    // keys of the interval, before limit and filters
	More  bool     // the limit cut something off
	Rev   int64    // the store's revision when it was read
}

// Range reads at one revision. It fails with api.ErrFutureRev or api.ErrCompacted.
// Any goroutine may call it; it holds up nobody, however much it reads.
func (s *Store) Range(o RangeOptions) (RangeResult, error) {
	for {
		current := s.rev.Load()
		rev, err := s.readRev(o.Rev, current)
		if err != nil {
			return RangeResult{Rev: current}, err
		}
		res, err := s.read(&o, rev)
		res.Rev = current
		switch {
		case s.compacted.Load() <= rev:
			return res, err
		case o.Rev > 0:
			return RangeResult{Rev: current}, api.ErrCompacted
		}
		// A compaction overtook this read of the newest state: read a newer one.
	}
}

// read reads at a revision that is not compacted. If it is by the time it
// returns, the result, also an error, means nothing.
func (s *Store) read(o *RangeOptions, rev int64) (RangeResult, error) {
	iv := newInterval(o.Key, o.End)
	if iv.one {
		return s.readOne(o, rev)
	}
	res := RangeResult{Count: s.tree.count(&iv, rev)}
	if o.CountOnly || res.Count == 0 {
		return res, nil
	}
	g := gather{s: s, o: *o, rev: rev, most: o.most(res.Count)}
	g.walk(&iv)
	if g.err != nil {
		return res, g.err
	}
	g.sort()
	res.KVs = g.answer()
	if o.Limit > 0 && int64(len(res.KVs)) > o.Limit {
		res.KVs = res.KVs[:o.Limit]
		res.More = true
	}
	return res, nil
}

// readOne is read for one key, the most frequent request.
func (s *Store) readOne(o *RangeOptions, rev int64) (RangeResult, error) {
	kv, ok, err := s.lookup(s.table.get(s.table.tag(o.Key), o.Key), rev)
	if err != nil || !ok {
		return RangeResult{}, err
	}
	res := RangeResult{Count: 1}
	if o.CountOnly || !o.wants(&kv) {
		return res, nil
	}
	if o.KeysOnly {
		kv.Raw = o.appendKeyOnly(nil, &kv)
	}
	res.KVs = [][]byte{kv.Raw}
	return res, nil
}

// byKeys tells that the answer is in key order, up or down.
func (o *RangeOptions) byKeys() bool { return o.SortTarget == pb.RangeRequest_KEY }

func (o *RangeOptions) backwards() bool {
	return o.byKeys() && o.SortOrder == pb.RangeRequest_DESCEND
}

func (o *RangeOptions) filtered() bool {
	return o.MinMod != 0 || o.MaxMod != 0 || o.MinCreate != 0 || o.MaxCreate != 0
}

// most returns how many keys, after the filters, need to be found, if count is
// that of the interval. One more than the limit tells whether there is more. Other
// orders than that of the keys need all, except that, as in etcd, "no order" by
// another target sorts the first limit+1 keys only, unless there are filters.
func (o *RangeOptions) most(count int64) int64 {
	if o.Limit <= 0 || !o.byKeys() && (o.SortOrder != pb.RangeRequest_NONE || o.filtered()) {
		return count
	}
	return min(o.Limit, count-1) + 1
}

// wants applies the filters.
func (o *RangeOptions) wants(kv *KV) bool {
	return !(o.MaxMod != 0 && kv.Mod > o.MaxMod || o.MinMod != 0 && kv.Mod < o.MinMod ||
		o.MaxCreate != 0 && kv.Create > o.MaxCreate || o.MinCreate != 0 && kv.Create < o.MinCreate)
}

// appendKeyOnly appends kv without its value. As in etcd 3.7, which takes it from
// the index, there is no lease either, except where the values had to be read to
// sort by them.
func (o *RangeOptions) appendKeyOnly(dst []byte, kv *KV) []byte {
	f := fields{key: kv.Key(), create: kv.Create, mod: kv.Mod, version: kv.Version}
	if o.SortTarget == pb.RangeRequest_VALUE {
		f.lease = kv.Lease
	}
	return f.append(dst)
}

// gather collects what a walk finds: the answer itself where it is the values in
// key order, and else what is needed to make the answer of.
type gather struct {
	s    *Store
	o    RangeOptions
	rev  int64
	most int64 // when to stop
	// plain: the answer is in raws, and else made of kvs.
	plain bool
	raws  [][]byte
	kvs   []KV
	err   error
}

// roomFor bounds the room that is made for keys before they are found.
const roomFor = 1 << 16

func (g *gather) walk(iv *interval) {
	g.plain = !g.o.filtered() && !g.o.KeysOnly && g.o.byKeys()
	if g.plain {
		g.raws = make([][]byte, 0, min(g.most, roomFor))
	} else {
		g.kvs = make([]KV, 0, min(g.most, roomFor))
	}
	if g.o.backwards() {
		g.s.tree.descend(iv, g.rev, g.addLeaf)
	} else {
		g.s.tree.ascend(iv, g.rev, g.addLeaf)
	}
}

// addLeaf takes the marked entries of a leaf and reports whether to go on.
func (g *gather) addLeaf(l *leaf, marked uint32) bool {
	// All of a leaf's records are looked up before the first one is used: they lie
	// all over the memory, and so the processor waits for many at once.
	var entries [leafKeys]*entry
	var heads [leafKeys]*record
	n := 0
	for m := marked; m != 0; m &= m - 1 {
		entries[n] = l.entries[bits.TrailingZeros32(m)]
		heads[n] = entries[n].head.Load()
		n++
	}
	if g.o.backwards() {
		slices.Reverse(entries[:n])
		slices.Reverse(heads[:n])
	}
	if g.plain {
		n = int(min(int64(n), g.most-int64(len(g.raws))))
		return g.addRaws(entries[:n], heads[:n]) && int64(len(g.raws)) < g.most
	}
	for i := range n {
		if !g.addKV(entries[i], heads[i]) {
			return false
		}
	}
	return true
}

// addRaws is for an answer of values in key order.
func (g *gather) addRaws(entries []*entry, heads []*record) bool {
	for i, r := range heads {
		var raw []byte
		if r.main <= g.rev && !r.tomb() {
			raw, g.err = g.s.raw(entries[i], r)
		} else if at, _, ok := r.at(g.rev); ok && !at.tomb() {
			raw, g.err = g.s.fetch(at)
		} else {
			g.err = errGone
		}
		if g.err != nil {
			return false
		}
		g.raws = append(g.raws, raw)
	}
	return true
}

// errGone says that a key which the tree shows at a revision is not there: only a
// compaction that has passed the revision explains it, and then the whole result
// is void.
var errGone = errors.New("a key of the index has no record")

func (g *gather) addKV(e *entry, r *record) bool {
	kv, ok, err := g.s.valueOf(e, r, g.rev)
	if g.err = err; err == nil && !ok {
		g.err = errGone
	}
	if g.o.wants(&kv) {
		g.kvs = append(g.kvs, kv)
	}
	return g.err == nil && int64(len(g.kvs)) < g.most
}

// sort puts what was found in the order that is asked for; a walk has brought it
// in that of the keys. Equal elements stay in key order.
func (g *gather) sort() {
	var compare func(a, b KV) int
	switch g.o.SortTarget {
	case pb.RangeRequest_VERSION:
		compare = func(a, b KV) int { return cmp.Compare(a.Version, b.Version) }
	case pb.RangeRequest_CREATE:
		compare = func(a, b KV) int { return cmp.Compare(a.Create, b.Create) }
	case pb.RangeRequest_MOD:
		compare = func(a, b KV) int { return cmp.Compare(a.Mod, b.Mod) }
	case pb.RangeRequest_VALUE:
		compare = func(a, b KV) int { return bytes.Compare(a.Value(), b.Value()) }
	default:
		return
	}
	if g.o.SortOrder == pb.RangeRequest_DESCEND {
		up := compare
		compare = func(a, b KV) int { return up(b, a) }
	}
	slices.SortStableFunc(g.kvs, compare)
}

// answer returns the encoded KeyValues.
func (g *gather) answer() [][]byte {
	if len(g.kvs) == 0 {
		return g.raws // empty where no entry passed the filters
	}
	raws := make([][]byte, len(g.kvs))
	var buf []byte // for keys only: the pieces share it
	for i := range g.kvs {
		if !g.o.KeysOnly {
			raws[i] = g.kvs[i].Raw
			continue
		}
		at := len(buf)
		buf = g.o.appendKeyOnly(buf, &g.kvs[i])
		raws[i] = buf[at:len(buf):len(buf)]
	}
	return raws
}
