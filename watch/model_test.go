package watch

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"theseus/api"
	"theseus/mvcc"
)

// dumb is a store that keeps every event in a slice.
type dumb struct {
	mu        sync.Mutex
	revs      [][]mvcc.Event // from revision 2 on
	live      map[string]*mvccpb.KeyValue
	compacted int64
}

func newDumb() *dumb { return &dumb{live: map[string]*mvccpb.KeyValue{}, compacted: -1} }

func (d *dumb) current() int64 { return int64(len(d.revs)) + 1 }

// change is a put or, without a value, a delete.
type change struct{ key, value string }

// apply runs one transaction and returns its events.
func (d *dumb) apply(changes ...change) []mvcc.Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	rev := d.current() + 1
	var events []mvcc.Event
	for _, c := range changes {
		old := d.live[c.key]
		if old == nil && c.value == "" {
			continue
		}
		e := mvcc.Event{Key: []byte(c.key), Rev: mvcc.Rev{Main: rev, Sub: int64(len(events))}}
		if old != nil {
			e.Prev = api.AppendKV(nil, old)
		}
		kv := &mvccpb.KeyValue{Key: e.Key, ModRevision: rev}
		if c.value == "" {
			e.Delete = true
			delete(d.live, c.key)
		} else {
			kv.CreateRevision, kv.Version, kv.Value = rev, 1, []byte(c.value)
			if old != nil {
				kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
			}
			d.live[c.key] = kv
		}
		e.Raw = api.AppendKV(nil, kv)
		events = append(events, e)
	}
	if len(events) > 0 {
		d.revs = append(d.revs, events)
	}
	return events
}

func (d *dumb) compact(rev int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.compacted = max(d.compacted, rev)
}

func (d *dumb) Revision() (current, compacted int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.current(), d.compacted
}

func (d *dumb) Events(from, to int64, maxRevs int, fn func([]mvcc.Event) error) (int64, error) {
	for n := 0; from <= to && (maxRevs == 0 || n < maxRevs); n++ {
		d.mu.Lock()
		if from < d.compacted {
			d.mu.Unlock()
			return from, api.ErrCompacted
		}
		if from < 2 { // nothing ever happened there
			d.mu.Unlock()
			from++
			continue
		}
		events := slices.Clone(d.revs[from-2])
		d.mu.Unlock()
		for i := range events {
			if from%2 == 0 {
				events[i].Prev = nil // as after a restart: only Prev knows
			}
		}
		if err := fn(events); err != nil {
			return from, err
		}
		from++
	}
	return from, nil
}

func (d *dumb) Prev(e *mvcc.Event) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.compacted >= e.Rev.Main {
		return nil
	}
	return d.revs[e.Rev.Main-2][e.Rev.Sub].Prev
}

// watch is what the model knows of one watcher.
type watch struct {
	req      *pb.WatchCreateRequest
	from     int64 // the first revision it is to get
	canceled bool  // by the client
}

// wants returns what a dumb filter over history gives, in the form of text.
func (w *watch) wants(d *dumb, upTo int64) (all []string) {
	key, end := string(w.req.Key), string(w.req.RangeEnd)
	for rev := max(w.from, 2); rev <= min(upTo, d.current()); rev++ {
		for _, e := range d.revs[rev-2] {
			in := string(e.Key) == key
			if end != "" {
				in = string(e.Key) >= key && (end == "\x00" || string(e.Key) < end)
			}
			if e.Delete && slices.Contains(w.req.Filters, pb.WatchCreateRequest_NODELETE) ||
				!e.Delete && slices.Contains(w.req.Filters, pb.WatchCreateRequest_NOPUT) {
				in = false
			}
			if !in {
				continue
			}
			ev := &mvccpb.Event{Kv: &mvccpb.KeyValue{}}
			if e.Delete {
				ev.Type = mvccpb.DELETE
			}
			if err := proto.Unmarshal(e.Raw, ev.Kv); err != nil {
				panic(err)
			}
			if w.req.PrevKv && e.Prev != nil {
				ev.PrevKv = &mvccpb.KeyValue{}
				if err := proto.Unmarshal(e.Prev, ev.PrevKv); err != nil {
					panic(err)
				}
			}
			all = append(all, text(ev, false))
		}
	}
	return all
}

// text describes an event; a previous value may be missing when its revision is
// compacted, which the caller checks.
func text(e *mvccpb.Event, lostPrev bool) string {
	s := fmt.Sprintf("%v %s=%s create %d mod %d version %d", e.Type, e.Kv.Key, e.Kv.Value, e.Kv.CreateRevision, e.Kv.ModRevision, e.Kv.Version)
	if e.PrevKv != nil && !lostPrev {
		s += fmt.Sprintf(" prev %s@%d", e.PrevKv.Value, e.PrevKv.ModRevision)
	}
	return s
}

// client is one stream with a consumer that reads when it is let.
type client struct {
	t       *testing.T
	s       *Stream
	gate    chan struct{} // one token lets it read once; closed: read on
	log     []*pb.WatchResponse
	watches map[int64]*watch
	done    chan struct{}
}

func newClient(t *testing.T, h *Hub) *client {
	c := &client{t: t, s: h.NewStream(), gate: make(chan struct{}), watches: map[int64]*watch{}, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		for {
			<-c.gate
			list, err := c.s.Next(context.Background())
			if err != nil {
				return
			}
			for _, b := range list {
				r := &pb.WatchResponse{}
				if err := proto.Unmarshal(b, r); err != nil {
					t.Errorf("a response that is none: %v", err)
				}
				c.log = append(c.log, r)
			}
		}
	}()
	return c
}

func (c *client) allow() {
	select {
	case c.gate <- struct{}{}:
	default:
	}
}

// check replays what the client got against the dumb filter.
func (c *client) check(d *dumb) {
	c.t.Helper()
	got, created, compacted, fragment := map[int64][]string{}, map[int64]bool{}, map[int64]bool{}, map[int64]bool{}
	lastRev := map[int64]int64{}
	for _, r := range c.log {
		w := c.watches[r.WatchId]
		switch {
		case r.Created || w != nil && r.Canceled && r.CompactRevision == 0:
			if r.Canceled == r.Created || r.Canceled != created[r.WatchId] {
				c.t.Errorf("odd answer %v", r)
			}
			created[r.WatchId] = true
		case r.Canceled:
			compacted[r.WatchId] = true
			if r.Header.Revision != 0 || r.CompactRevision <= int64(w.from) && len(got[r.WatchId]) == 0 {
				c.t.Errorf("odd answer to a compacted watch from %d: %v", w.from, r)
			}
		case len(r.Events) == 0:
			for id, w := range c.watches {
				if r.WatchId != -1 && r.WatchId != id || w.canceled || compacted[id] || !created[id] {
					continue
				}
				if want := w.wants(d, r.Header.Revision); len(want) > len(got[id]) {
					c.t.Errorf("progress says %d, but watcher %d has got %d events of %d", r.Header.Revision, id, len(got[id]), len(want))
				}
			}
		case !created[r.WatchId]:
			c.t.Errorf("watcher %d gets events before it is created", r.WatchId)
		default:
			for _, e := range r.Events {
				if e.Kv.ModRevision == lastRev[r.WatchId] && !fragment[r.WatchId] && e == r.Events[0] {
					c.t.Errorf("watcher %d: revision %d is split", r.WatchId, e.Kv.ModRevision)
				}
				lastRev[r.WatchId] = e.Kv.ModRevision
				if e.Kv.ModRevision > r.Header.Revision {
					c.t.Errorf("watcher %d: event of %d in a response of %d", r.WatchId, e.Kv.ModRevision, r.Header.Revision)
				}
				got[r.WatchId] = append(got[r.WatchId], text(e, false))
			}
			fragment[r.WatchId] = r.Fragment
			if r.Fragment && !w.req.Fragment {
				c.t.Errorf("watcher %d gets fragments", r.WatchId)
			}
		}
	}
	for id, w := range c.watches {
		if fragment[id] {
			c.t.Errorf("watcher %d waits for another fragment", id)
		}
		c.compare(d, id, w, got[id], compacted[id])
	}
}

func (c *client) compare(d *dumb, id int64, w *watch, got []string, compacted bool) {
	c.t.Helper()
	want := w.wants(d, d.current())
	if w.canceled || compacted {
		want = want[:min(len(got), len(want))]
	}
	for i := range min(len(got), len(want)) {
		// A previous value that is compacted by the time of reading is left out.
		if g := got[i]; g != want[i] && d.compacted > 0 && len(g) < len(want[i]) && want[i][:len(g)] == g {
			got[i] = want[i]
		}
	}
	if !slices.Equal(want, got) {
		c.t.Errorf("watcher %d %v from %d (canceled %v, compacted %v): %s", id, w.req, w.from, w.canceled, compacted, cmp.Diff(want, got))
	}
}

func tiny(r *rand.Rand) limits {
	l := defaultLimits
	pick := func(p *int, small ...int) {
		if r.IntN(2) == 0 {
			*p = small[r.IntN(len(small))]
		}
	}
	pick(&l.inboxEvents, 1, 10)
	pick(&l.passRevs, 1, 3)
	pick(&l.passBytes, 1, 200)
	pick(&l.stepRevs, 1, 5)
	pick(&l.stepBytes, 1, 100)
	pick(&l.stepWatchers, 1, 3)
	pick(&l.queueItems, 1, 5)
	pick(&l.queuePerWatcher, 0, 1)
	pick(&l.queueBytes, 1, 200)
	pick(&l.batchBytes, 1, 100)
	l.closeRevs = r.Int64N(3) * 4
	return l
}

// play runs a random story: transactions, compactions, watchers that come and go,
// clients that stop reading, snapshots.
type play struct {
	t       *testing.T
	r       *rand.Rand
	d       *dumb
	h       *Hub
	clients []*client
	held    []mvcc.Event // applied, but Notify has not been called yet
	nextID  int64
}

func (p *play) key() string { return string("abcdef"[p.r.IntN(6)]) + string("xy"[p.r.IntN(2)]) }

func (p *play) txn() {
	var changes []change
	used := map[string]bool{}
	for range 1 + p.r.IntN(4) {
		c := change{key: p.key()}
		if p.r.IntN(4) > 0 {
			c.value = fmt.Sprint("v", p.r.IntN(1000), string(bytes.Repeat([]byte("."), p.r.IntN(60))))
		}
		if !used[c.key] {
			changes = append(changes, c)
		}
		used[c.key] = true
	}
	p.held = append(p.held, p.d.apply(changes...)...)
	if p.r.IntN(4) > 0 {
		p.notify()
	}
}

func (p *play) notify() {
	if len(p.held) > 0 {
		p.h.Notify(p.held, p.held[len(p.held)-1].Rev.Main)
	}
	p.held = nil
}

func (p *play) create(c *client) {
	p.nextID++
	req := &pb.WatchCreateRequest{Key: []byte(p.key()), WatchId: p.nextID, PrevKv: p.r.IntN(2) == 0, Fragment: p.r.IntN(2) == 0, ProgressNotify: p.r.IntN(3) == 0}
	switch p.r.IntN(4) {
	case 0:
		req.Key, req.RangeEnd = req.Key[:1], []byte{req.Key[0] + 1 + byte(p.r.IntN(3))}
	case 1:
		req.RangeEnd = []byte{0}
	}
	switch p.r.IntN(6) {
	case 0:
		req.Filters = []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}
	case 1:
		req.Filters = []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NODELETE}
	}
	w := &watch{req: req, from: p.d.current() + 1}
	if p.r.IntN(2) == 0 {
		req.StartRevision = 1 + p.r.Int64N(p.d.current()+10)
		w.from = req.StartRevision
	}
	c.watches[req.WatchId] = w
	c.s.Create(req)
}

func (p *play) step() {
	c := p.clients[p.r.IntN(len(p.clients))]
	switch n := p.r.IntN(100); {
	case n < 50:
		p.txn()
	case n < 60:
		p.create(c)
	case n < 64:
		for id, w := range c.watches {
			if !w.canceled {
				w.canceled = true
				c.s.Cancel(id)
				break
			}
		}
	case n < 67:
		p.d.compact(1 + p.r.Int64N(p.d.current()))
	case n < 69:
		p.notify()
		copied := &dumb{revs: p.d.revs, live: p.d.live, compacted: p.d.compacted}
		p.d = copied
		p.h.restore(copied)
	case n < 72:
		c.s.Progress()
	case n < 74:
		time.Sleep(time.Minute) // of the bubble's clock: progress ticks
	case n < 80:
		synctest.Wait()
	default:
		c.allow()
	}
}

func TestModel(t *testing.T) {
	for seed := range uint64(150) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { story(t, seed) })
		})
	}
}

func story(t *testing.T, seed uint64) {
	p := &play{t: t, r: rand.New(rand.NewPCG(seed, 1)), d: newDumb()}
	p.h = newHub(p.d, Options{FragmentBytes: 150, ProgressInterval: time.Minute})
	p.h.limits = tiny(p.r)
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan struct{})
	go func() { defer close(ran); _ = p.h.Run(ctx) }()
	for range 3 {
		p.clients = append(p.clients, newClient(t, p.h))
	}
	for range 300 {
		p.step()
	}
	p.notify()
	for _, c := range p.clients {
		close(c.gate)
	}
	time.Sleep(2 * retryInterval) // a read may have met a compaction
	synctest.Wait()
	p.h.mu.Lock()
	if p.h.slow != 0 || len(p.h.ready) != 0 || p.h.position != p.d.current() {
		t.Errorf("after all: %d slow, %d ready, position %d of %d", p.h.slow, len(p.h.ready), p.h.position, p.d.current())
	}
	p.h.mu.Unlock()
	for _, c := range p.clients {
		p.askProgress(c)
		c.check(p.d)
		c.s.Close()
		<-c.done
	}
	if n := p.h.index.count + len(p.h.index.groups) + len(p.h.index.single); n != 0 || p.h.index.ranges.root != nil {
		t.Errorf("the index is not empty after all streams have closed")
	}
	stop()
	<-ran
}

// askProgress checks whether a quiet stream answers a progress request as it should.
func (p *play) askProgress(c *client) {
	p.t.Helper()
	want := false
	for id := range c.watches {
		w := c.s.watchers[id]
		if w == nil {
			continue
		}
		want = true
		if w.state == dead || w.start > p.d.current() {
			want = false
			break
		}
	}
	before := len(c.log)
	c.s.Progress()
	synctest.Wait()
	if got := len(c.log) == before+1; got != want {
		p.t.Errorf("progress answered: %v, want %v", got, want)
	}
}
