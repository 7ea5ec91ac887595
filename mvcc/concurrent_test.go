package mvcc

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"theseus/api"
)

// TestReadersBesideTheWriter: every transaction gives all the keys of a group, of
// which some come and go, the same value, its revision. So whatever a reader is
// shown, it can tell whether that is one revision whole; and the writer compacts
// and removes behind everyone's back.
func TestReadersBesideTheWriter(t *testing.T) {
	for _, budget := range []int64{0, -1} {
		t.Run(fmt.Sprint("budget ", budget), func(t *testing.T) {
			w := &writing{t: t, f: newFixture(t, Options{ValueBudgetBytes: budget})}
			w.round(0)
			stop := make(chan struct{})
			var readers sync.WaitGroup
			for i, check := range []func(*rand.Rand){w.checkList, w.checkPages, w.checkGet, w.checkEvents, w.checkHash} {
				readers.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(i), 1))
					for {
						select {
						case <-stop:
							return
						default:
							check(rng)
						}
					}
				})
			}
			for i := range 40 {
				w.round(i)
			}
			close(stop)
			readers.Wait()
		})
	}
}

const groupKeys = 150

type writing struct {
	t *testing.T
	f *fixture
}

func groupKey(i int) []byte { return fmt.Appendf(nil, "k%04d", i) }

// round writes the group; every seventh key from an offset on is deleted, and the
// key that says how many there are is written last.
func (w *writing) round(i int) {
	rev, _ := w.f.s.Revision()
	rev++
	w.f.unit(func(tx *Txn) {
		value := fmt.Append(nil, rev)
		n := 0
		for k := range groupKeys {
			if i > 0 && (k+i)%7 == 0 {
				tx.DeleteRange(groupKey(k), nil)
				continue
			}
			tx.Put(groupKey(k), value, 0)
			n++
		}
		tx.Put([]byte("l"), fmt.Append(nil, n), 0)
	})
	if i%5 == 4 {
		if err := w.f.compact(rev - int64(i%3)); err != nil {
			w.t.Error(err)
		}
	}
	w.f.compactStep(1 + i%200)
}

// whole checks the answer to a range over the whole group and its count.
func (w *writing) whole(r RangeResult, rev int64) {
	if len(r.KVs) == 0 {
		w.t.Error("nothing found")
		return
	}
	last := KV{Raw: r.KVs[len(r.KVs)-1]}
	if want := fmt.Sprint(len(r.KVs) - 1); string(last.Key()) != "l" || string(last.Value()) != want || r.Count != int64(len(r.KVs)) {
		w.t.Errorf("%d keys counted as %d, the last one is %s=%s", len(r.KVs), r.Count, last.Key(), last.Value())
	}
	for _, raw := range r.KVs[:len(r.KVs)-1] {
		if kv := (KV{Raw: raw}); string(kv.Value()) != fmt.Sprint(rev) {
			w.t.Errorf("%s=%s at revision %d", kv.Key(), kv.Value(), rev)
			return
		}
	}
}

func (w *writing) checkList(rng *rand.Rand) {
	o := RangeOptions{Key: []byte("k"), End: []byte("m")}
	if rng.IntN(2) == 0 {
		current, _ := w.f.s.Revision()
		o.Rev = max(current-rng.Int64N(3), 2)
	}
	r, err := w.f.s.Range(o)
	switch {
	case err == nil && o.Rev > 0:
		w.whole(r, o.Rev)
	case err == nil:
		w.whole(r, r.Rev)
	case o.Rev <= 0 || !errors.Is(err, api.ErrCompacted) && !errors.Is(err, api.ErrFutureRev):
		w.t.Errorf("range at %d: %v", o.Rev, err)
	}
}

// checkPages reads page by page at one revision, up or down.
func (w *writing) checkPages(rng *rand.Rand) {
	var all RangeResult
	o := RangeOptions{Key: []byte("k"), End: []byte("m"), Limit: 1 + rng.Int64N(60)}
	down := rng.IntN(2) == 0
	if down {
		o.SortOrder = pb.RangeRequest_DESCEND
	}
	for more := true; more; {
		r, err := w.f.s.Range(o)
		if err != nil {
			if !errors.Is(err, api.ErrCompacted) || o.Rev <= 0 {
				w.t.Errorf("page: %v", err)
			}
			return
		}
		if o.Rev == 0 {
			o.Rev, all.Count = r.Rev, r.Count
		}
		if r.Count != all.Count-int64(len(all.KVs)) || len(r.KVs) == 0 {
			w.t.Errorf("a page of %d counts %d of %d after %d", len(r.KVs), r.Count, all.Count, len(all.KVs))
			return
		}
		all.KVs = append(all.KVs, r.KVs...)
		last := KV{Raw: r.KVs[len(r.KVs)-1]}.Key()
		if more = r.More; down {
			o.End = last
		} else {
			o.Key = append(append([]byte(nil), last...), 0)
		}
	}
	if down {
		for i, j := 0, len(all.KVs)-1; i < j; i, j = i+1, j-1 {
			all.KVs[i], all.KVs[j] = all.KVs[j], all.KVs[i]
		}
	}
	w.whole(all, o.Rev)
}

// checkGet reads one key, which the newest revision that was there before wrote.
func (w *writing) checkGet(rng *rand.Rand) {
	before, _ := w.f.s.Revision()
	key := groupKey(rng.IntN(groupKeys))
	kv, ok := w.f.s.Get(key)
	if ok && (string(kv.Key()) != string(key) || string(kv.Value()) != fmt.Sprint(kv.Mod) || kv.Mod < before) {
		w.t.Errorf("%s=%s mod %d after revision %d", kv.Key(), kv.Value(), kv.Mod, before)
	}
}

func (w *writing) checkEvents(rng *rand.Rand) {
	current, compacted := w.f.s.Revision()
	from := max(compacted, current-4, 2)
	next := from
	_, err := w.f.s.Events(from, current, 0, func(events []Event) error {
		for i := range events {
			e := &events[i]
			if e.Rev.Main != next && from != compacted {
				w.t.Errorf("events of %d, want those of %d", e.Rev.Main, next)
			}
			if string(e.Key) != "l" && !e.Delete && string(KV{Raw: e.Raw}.Value()) != fmt.Sprint(e.Rev.Main) {
				w.t.Errorf("%s=%s at %d", e.Key, KV{Raw: e.Raw}.Value(), e.Rev.Main)
			}
			if rng.IntN(20) == 0 {
				if prev := w.f.s.Prev(e); prev != nil && string(e.Key) != "l" && string(KV{Raw: prev}.Value()) != fmt.Sprint(e.Rev.Main-1) {
					w.t.Errorf("%s=%s before %d", e.Key, KV{Raw: prev}.Value(), e.Rev.Main)
				}
			}
		}
		next = events[0].Rev.Main + 1
		return nil
	})
	if err != nil && !errors.Is(err, api.ErrCompacted) {
		w.t.Error(err)
	}
}

// checkHash hashes one revision twice.
func (w *writing) checkHash(*rand.Rand) {
	a, err := w.f.s.HashKV(0)
	if err != nil {
		w.t.Errorf("hash: %v", err)
		return
	}
	b, err := w.f.s.HashKV(a.HashRevision)
	if err == nil && a.CompactRevision == b.CompactRevision && a.Hash != b.Hash {
		w.t.Errorf("%+v, then %+v", a, b)
	}
}
