package watch

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"theseus/backend"
	"theseus/mvcc"
)

// real is a store over a file, and the dumb one with the same content.
type real struct {
	t    *testing.T
	path string
	b    *backend.Backend
	kv   *mvcc.Store
	dumb *dumb
}

func openReal(t *testing.T) *real {
	r := &real{t: t, path: filepath.Join(t.TempDir(), "db"), dumb: newDumb()}
	r.open()
	t.Cleanup(func() { r.b.Close() })
	return r
}

func (r *real) open() {
	r.t.Helper()
	b, err := backend.Open(backend.Options{Path: r.path, NoSync: true, MapBytes: 1 << 20})
	if err != nil {
		r.t.Fatal(err)
	}
	kv, err := mvcc.Open(b, mvcc.Options{})
	if err != nil {
		r.t.Fatal(err)
	}
	r.b, r.kv = b, kv
}

func (r *real) apply(changes ...change) []mvcc.Event {
	r.dumb.apply(changes...)
	r.b.Begin()
	defer r.b.End()
	txn := r.kv.Begin()
	for _, c := range changes {
		if c.value == "" {
			txn.DeleteRange([]byte(c.key), nil)
		} else {
			txn.Put([]byte(c.key), []byte(c.value), 0)
		}
	}
	return txn.End()
}

func (r *real) compact(rev int64) {
	r.t.Helper()
	r.b.Begin()
	defer r.b.End()
	if err := r.kv.Compact(rev); err != nil {
		r.t.Fatal(err)
	}
	for r.kv.CompactStep(10) {
	}
	r.dumb.compact(rev)
}

// gather reads until the stream has brought so many events, by watcher.
func gather(t *testing.T, s *Stream, events int) map[int64][]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got := map[int64][]string{}
	for events > 0 {
		list, err := s.Next(ctx)
		if err != nil {
			t.Fatalf("%d events are missing: %v", events, err)
		}
		for _, b := range list {
			var m pb.WatchResponse
			if err := proto.Unmarshal(b, &m); err != nil {
				t.Fatal(err)
			}
			for _, e := range m.Events {
				events--
				got[m.WatchId] = append(got[m.WatchId], text(e, false))
			}
		}
	}
	return got
}

// TestRealStore checks history and live events of the real store, before and after
// it was opened anew, against the dumb one.
func TestRealStore(t *testing.T) {
	r := openReal(t)
	rnd := rand.New(rand.NewPCG(5, 5))
	txn := func() []mvcc.Event {
		var changes []change
		for _, k := range rnd.Perm(6)[:1+rnd.IntN(3)] {
			c := change{key: fmt.Sprint("k", k), value: fmt.Sprint("v", rnd.IntN(1000))}
			if rnd.IntN(4) == 0 {
				c.value = ""
			}
			changes = append(changes, c)
		}
		return r.apply(changes...)
	}
	for range 3000 {
		txn()
	}
	r.compact(700)
	if err := r.b.Close(); err != nil {
		t.Fatal(err)
	}
	r.open()

	h := New(r.kv, Options{})
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan struct{})
	go func() { defer close(ran); _ = h.Run(ctx) }()
	s := h.NewStream()
	watches := map[int64]*watch{}
	for id := range int64(20) {
		w := &watch{req: &pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("l"), WatchId: id + 1, PrevKv: id%2 == 0}}
		if id%3 == 0 {
			w.req.Key, w.req.RangeEnd = []byte(fmt.Sprint("k", id%6)), nil
		}
		w.req.StartRevision = 700 + rnd.Int64N(r.dumb.current()-690)
		w.from = w.req.StartRevision
		watches[id+1] = w
		s.Create(w.req)
	}
	for range 500 {
		if events := txn(); len(events) > 0 {
			h.Notify(events, r.dumb.current())
		}
	}
	total, want := 0, map[int64][]string{}
	for id, w := range watches {
		want[id] = w.wants(r.dumb, r.dumb.current())
		total += len(want[id])
	}
	got := gather(t, s, total)
	for id, w := range watches {
		if g := got[id]; !slices.Equal(g, want[id]) {
			t.Errorf("watcher %v: %s", w.req, cmp.Diff(want[id], g))
		}
	}
	s.Close()
	stop()
	<-ran
}
