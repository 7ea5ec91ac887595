package watch

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"theseus/api"
)

// testHub is a hub over a dumb store, with a running Run, inside a bubble.
type testHub struct {
	t *testing.T
	d *dumb
	*Hub
}

// inBubble runs fn with a hub, and checks that nothing is left running after it.
func inBubble(t *testing.T, o Options, fn func(t *testing.T, h *testHub)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := newDumb()
		h := &testHub{t, d, newHub(d, o)}
		ctx, stop := context.WithCancel(t.Context())
		ran := make(chan struct{})
		go func() { defer close(ran); _ = h.Run(ctx) }()
		fn(t, h)
		stop()
		<-ran
	})
}

// change applies a transaction and tells the hub.
func (h *testHub) change(changes ...change) {
	if events := h.d.apply(changes...); len(events) > 0 {
		h.Notify(events, h.d.current())
	}
}

// responses returns what is there to be read, as text.
func (h *testHub) responses(s *Stream) (all []string) {
	h.t.Helper()
	for _, r := range h.read(s) {
		all = append(all, describe(r))
	}
	return all
}

func (h *testHub) read(s *Stream) (all []*pb.WatchResponse) {
	h.t.Helper()
	for {
		synctest.Wait()
		ctx, cancel := context.WithTimeout(h.t.Context(), time.Nanosecond)
		list, err := s.Next(ctx)
		cancel()
		if err != nil {
			if err != context.DeadlineExceeded {
				h.t.Errorf("Next: %v", err)
			}
			return all
		}
		for _, b := range list {
			r := &pb.WatchResponse{}
			if err := proto.Unmarshal(b, r); err != nil {
				h.t.Fatal(err)
			}
			all = append(all, r)
		}
	}
}

// describe puts what matters of a response in one line.
func describe(r *pb.WatchResponse) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d@%d", r.WatchId, r.Header.Revision)
	if r.Created {
		b.WriteString(" created")
	}
	if r.Canceled {
		b.WriteString(" canceled")
	}
	if r.CompactRevision != 0 {
		fmt.Fprintf(&b, " compact %d", r.CompactRevision)
	}
	if r.CancelReason != "" {
		fmt.Fprintf(&b, " %q", r.CancelReason)
	}
	if r.Fragment {
		b.WriteString(" fragment")
	}
	for _, e := range r.Events {
		fmt.Fprintf(&b, " %v %s@%d", e.Type, e.Kv.Key, e.Kv.ModRevision)
		if e.PrevKv != nil {
			fmt.Fprintf(&b, "(%d)", e.PrevKv.ModRevision)
		}
	}
	return b.String()
}

func key(k string) *pb.WatchCreateRequest { return &pb.WatchCreateRequest{Key: []byte(k)} }

func with(r *pb.WatchCreateRequest, fn func(*pb.WatchCreateRequest)) *pb.WatchCreateRequest {
	fn(r)
	return r
}

func withID(k string, id int64) *pb.WatchCreateRequest {
	return with(key(k), func(r *pb.WatchCreateRequest) { r.WatchId = id })
}

func rng(k, end string) *pb.WatchCreateRequest {
	return with(key(k), func(r *pb.WatchCreateRequest) { r.RangeEnd = []byte(end) })
}

func from(r *pb.WatchCreateRequest, rev int64) *pb.WatchCreateRequest {
	return with(r, func(r *pb.WatchCreateRequest) { r.StartRevision = rev })
}

func prev(r *pb.WatchCreateRequest) *pb.WatchCreateRequest {
	return with(r, func(r *pb.WatchCreateRequest) { r.PrevKv = true })
}

func (h *testHub) expect(s *Stream, what string, want ...string) {
	h.t.Helper()
	if d := cmp.Diff(want, h.responses(s)); d != "" {
		h.t.Errorf("%s: %s", what, d)
	}
}

// The answers in the following tests are those that a real etcd 3.7.3 gave to the
// same requests.

func TestIDsAndRefusals(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, h *testHub) {
		s := h.NewStream()
		defer s.Close()
		s.Progress()
		h.expect(s, "progress without watchers")
		for _, tt := range []struct {
			r    *pb.WatchCreateRequest
			want string
		}{
			{key("a"), "0@1 created"},
			{withID("a", 2), "2@1 created"},
			{key("a"), "1@1 created"},
			{key("a"), "3@1 created"},
			{withID("a", 2), `-1@1 created canceled "mvcc: duplicate watch ID provided on the WatchStream"`},
			{with(rng("b", "a"), func(r *pb.WatchCreateRequest) { r.WatchId = 2 }), `-1@1 created canceled "mvcc: watcher range is empty"`},
			{with(rng("b", "b"), func(r *pb.WatchCreateRequest) { r.WatchId = 20 }), `-1@1 created canceled "mvcc: watcher range is empty"`},
			{from(withID("b", 2), -3), `-1@1 created canceled "etcdserver: mvcc: required revision has been compacted"`},
			{from(rng("b", "a"), -3), `-1@1 created canceled "etcdserver: mvcc: required revision has been compacted"`},
			{withID("b", -1), "-1@1 created"},
			{withID("b", -7), "-7@1 created"},
		} {
			s.Create(tt.r)
			h.expect(s, tt.r.String(), tt.want)
		}
		s.Progress()
		h.expect(s, "progress", "-1@1")
		h.change(change{"b", "1"})
		h.expect(s, "put b", "-1@2 PUT b@2", "-7@2 PUT b@2")
		s.Cancel(1)
		s.Cancel(99)
		h.expect(s, "cancel", "1@2 canceled")
		s.Create(key("c"))
		s.Create(withID("c", 1))
		h.expect(s, "ids after a cancel", "4@2 created", "1@2 created")
		s.Refuse("etcdserver: permission denied")
		h.expect(s, "refuse", `-1@2 created canceled "etcdserver: permission denied"`)
	})
}

func TestKeys(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, h *testHub) {
		s := h.NewStream()
		defer s.Close()
		s.Create(key(""))
		s.Create(rng("", "\x00"))
		s.Create(rng("z", "\x00"))
		s.Create(rng("a", "b"))
		h.expect(s, "create", "0@1 created", "1@1 created", "2@1 created", "3@1 created")
		h.change(change{"z1", "x"})
		h.expect(s, "z1", "1@2 PUT z1@2", "2@2 PUT z1@2")
		h.change(change{"b", "x"})
		h.expect(s, "b", "1@3 PUT b@3")
		h.change(change{"a", "x"}, change{"\x00", "x"})
		h.expect(s, "a and the first key", "1@4 PUT a@4 PUT \x00@4", "3@4 PUT a@4", "0@4 PUT \x00@4")
	})
}

func TestFutureStart(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, h *testHub) {
		s := h.NewStream()
		defer s.Close()
		s.Create(from(key("f"), 6))
		s.Progress()
		h.expect(s, "create", "0@1 created")
		for range 4 {
			h.change(change{"f", "x"})
			s.Progress()
		}
		h.expect(s, "before it", []string(nil)...)
		h.change(change{"f", "x"})
		h.expect(s, "at it", "0@6 PUT f@6")
		s.Progress()
		h.expect(s, "progress", "-1@6")
	})
}

func TestPastFiltersAndCompaction(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, h *testHub) {
		s := h.NewStream()
		defer s.Close()
		for range 3 {
			h.change(change{"f", "x"})
		}
		s.Create(prev(from(with(key("f"), func(r *pb.WatchCreateRequest) { r.Filters = []pb.WatchCreateRequest_FilterType{7} }), 1)))
		h.expect(s, "the past", "0@4 created", "0@4 PUT f@2 PUT f@3(2) PUT f@4(3)")
		s.Create(from(with(key("f"), func(r *pb.WatchCreateRequest) {
			r.Filters = []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}
		}), 1))
		h.expect(s, "nothing but puts, and they are filtered", "1@4 created")
		h.change(change{"f", ""})
		h.expect(s, "delete", "0@5 DELETE f@5(4)", "1@5 DELETE f@5")
		h.change(change{"f", "x"})
		h.change(change{"f", "x"})
		got := strings.Join(h.responses(s), " ")
		if got != "0@6 PUT f@6 0@7 PUT f@7(6)" && got != "0@7 PUT f@6 PUT f@7(6)" {
			t.Errorf("two puts: %s", got)
		}
		h.d.compact(5)
		s.Create(prev(from(key("f"), 5)))
		h.expect(s, "from the compacted revision", "2@7 created", "2@7 DELETE f@5 PUT f@6 PUT f@7(6)")
		s.Create(from(key("f"), 4))
		h.expect(s, "before it", "3@7 created", "3@0 canceled compact 5")
		s.Progress()
		h.expect(s, "progress with a dead watcher")
		s.Create(withID("f", 3))
		h.expect(s, "its id", `-1@7 created canceled "mvcc: duplicate watch ID provided on the WatchStream"`)
		s.Cancel(3)
		s.Progress()
		h.expect(s, "after its cancel", "3@7 canceled", "-1@7")
		s.CancelAll("etcdserver: invalid auth token")
		if got := h.responses(s); len(got) != 3 || !strings.HasSuffix(got[0], `@7 canceled "etcdserver: invalid auth token"`) {
			t.Errorf("cancel all: %q", got)
		}
	})
}

// TestCompactedBeforeServed: what was compacted is canceled even if the events of
// now have not been served yet.
func TestCompactedBeforeServed(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, h *testHub) {
		s := h.NewStream()
		defer s.Close()
		for range 8 {
			h.d.apply(change{"f", "x"}) // Notify is late
		}
		h.d.compact(6)
		s.Create(from(key("f"), 4))
		h.expect(s, "create", "0@9 created", "0@0 canceled compact 6")
	})
}

// TestProgressWaits: a progress request is answered with what was current when it
// was made, even if the events have not been served yet.
func TestProgressWaits(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, h *testHub) {
		s := h.NewStream()
		defer s.Close()
		s.Create(key("a"))
		one, two := h.d.apply(change{"a", "x"}), h.d.apply(change{"b", "x"})
		s.Progress()
		h.expect(s, "before Notify", "0@1 created")
		h.Notify(one, 2)
		h.expect(s, "half of it", "0@2 PUT a@2")
		h.Notify(two, 3)
		h.expect(s, "all of it", "-1@3")
		h.d.apply(change{"b", "y"})
		for range 2 * asksLimit {
			s.Progress()
		}
		h.change(change{"b", "z"})
		if got := len(h.responses(s)); got != asksLimit {
			t.Errorf("%d progress requests were answered, want %d", got, asksLimit)
		}
	})
}

func TestProgressNotify(t *testing.T) {
	inBubble(t, Options{ProgressInterval: time.Minute}, func(t *testing.T, h *testHub) {
		s := h.NewStream()
		defer s.Close()
		s.Create(with(key("n"), func(r *pb.WatchCreateRequest) { r.ProgressNotify = true }))
		s.Create(key("n"))
		h.expect(s, "create", "0@1 created", "1@1 created")
		got := make(chan string, 100)
		go func() {
			for {
				list, err := s.Next(context.Background())
				if err != nil {
					close(got)
					return
				}
				for _, b := range list {
					r := &pb.WatchResponse{}
					if err := proto.Unmarshal(b, r); err != nil {
						t.Error(err)
					}
					got <- describe(r)
				}
			}
		}()
		begin := time.Now()
		for i := range 3 {
			if r := <-got; r != "0@1" {
				t.Errorf("tick %d: %s", i, r)
			}
		}
		if d := time.Since(begin); d < 3*time.Minute || d > 3*66*time.Second {
			t.Errorf("three ticks took %v", d)
		}
		tick := time.Since(begin) / 3
		h.change(change{"n", "x"})
		for _, want := range []string{"0@2 PUT n@2", "1@2 PUT n@2"} {
			if r := <-got; r != want {
				t.Errorf("%s, want %s", r, want)
			}
		}
		begin = time.Now()
		if r := <-got; r != "0@2" || time.Since(begin) < tick*3/2 {
			t.Errorf("after an event: %s %v later", r, time.Since(begin))
		}
		s.Close()
		if r, ok := <-got; ok {
			t.Errorf("after Close: %s", r)
		}
	})
}

func TestFragments(t *testing.T) {
	const limit = 2000
	inBubble(t, Options{FragmentBytes: limit}, func(t *testing.T, h *testHub) {
		s := h.NewStream()
		defer s.Close()
		s.Create(with(rng("g", "h"), func(r *pb.WatchCreateRequest) { r.Fragment = true }))
		s.Create(rng("g", "h"))
		h.responses(s)
		var changes []change
		for i := range 20 {
			changes = append(changes, change{fmt.Sprintf("g%02d", i), strings.Repeat("x", 500)})
		}
		changes[7].value = strings.Repeat("x", 3*limit)
		h.change(changes...)
		events, parts := 0, 0
		for _, r := range h.read(s) {
			if r.WatchId == 1 {
				if r.Fragment || len(r.Events) != 20 {
					t.Errorf("who did not ask for fragments gets %d events, fragment %v", len(r.Events), r.Fragment)
				}
				continue
			}
			parts++
			if n := proto.Size(r); n >= limit && len(r.Events) > 1 {
				t.Errorf("a part has %d events and %d bytes", len(r.Events), n)
			}
			for _, e := range r.Events {
				if want := fmt.Sprintf("g%02d", events); string(e.Kv.Key) != want {
					t.Errorf("event %d is of %s", events, e.Kv.Key)
				}
				events++
			}
			if r.Fragment != (events < 20) {
				t.Errorf("after %d events: fragment %v", events, r.Fragment)
			}
		}
		if events != 20 || parts != 8 { // 3 3 1 1 3 3 3 3, the large one alone
			t.Errorf("%d events in %d parts", events, parts)
		}
	})
}

// TestSlowStream: who does not read costs bounded memory, holds nobody up, and
// gets everything once it reads.
func TestSlowStream(t *testing.T) {
	const revs, items = 3000, 300
	inBubble(t, Options{}, func(t *testing.T, h *testHub) {
		h.limits.queueItems, h.limits.queuePerWatcher = items, 0
		slow, quick := h.NewStream(), h.NewStream()
		defer slow.Close()
		defer quick.Close()
		for range 3 {
			slow.Create(key("a"))
		}
		quick.Create(key("a"))
		h.read(quick)
		events := 0
		for i := range revs {
			h.change(change{"a", "x"})
			synctest.Wait() // so that no two revisions share a response
			if i%100 == 0 {
				for _, r := range h.read(quick) {
					events += len(r.Events)
				}
			}
		}
		for _, r := range h.read(quick) {
			events += len(r.Events)
		}
		if events != revs {
			t.Errorf("the quick one got %d events", events)
		}
		slow.mu.Lock()
		if n := len(slow.queue); n > items+3 {
			t.Errorf("the slow one has %d responses queued", n)
		}
		slow.mu.Unlock()
		if h.slow != 3 {
			t.Errorf("%d watchers are behind, want 3", h.slow)
		}
		last := map[int64]int64{}
		for _, r := range h.read(slow) {
			for _, e := range r.Events {
				if e.Kv.ModRevision != max(last[r.WatchId], 1)+1 {
					t.Fatalf("watcher %d got %d after %d", r.WatchId, e.Kv.ModRevision, last[r.WatchId])
				}
				last[r.WatchId] = e.Kv.ModRevision
			}
		}
		for id := range int64(3) {
			if last[id] != revs+1 {
				t.Errorf("watcher %d got everything up to %d of %d", id, last[id], revs+1)
			}
		}
		slow.Progress()
		h.expect(slow, "progress after catching up", fmt.Sprintf("-1@%d", revs+1))
	})
}

// TestQueueBytes: large events fill a queue before many small ones do.
func TestQueueBytes(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, h *testHub) {
		h.limits.queueBytes = 10_000
		s := h.NewStream()
		defer s.Close()
		for range 50 { // they share the bytes
			s.Create(key("a"))
		}
		h.read(s)
		for range 20 {
			h.change(change{"a", strings.Repeat("x", 1000)})
			synctest.Wait()
		}
		s.mu.Lock()
		if n := len(s.queue); n < 9*50 || n > 10*50 {
			t.Errorf("%d responses are queued, want those of nine events for 50 watchers", n)
		}
		s.mu.Unlock()
		events := 0
		for _, r := range h.read(s) {
			events += len(r.Events)
		}
		if events != 20*50 {
			t.Errorf("%d events came, want %d", events, 20*50)
		}
	})
}

// TestFlood: a client that asks and does not read is held up, and Close lets go of it.
func TestFlood(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, h *testHub) {
		s := h.NewStream()
		made := 0
		flooded := make(chan struct{})
		go func() {
			defer close(flooded)
			for range 10 * defaultLimits.queueControl {
				s.Create(key("a"))
				made++
			}
		}()
		synctest.Wait()
		if made != defaultLimits.queueControl {
			t.Errorf("%d watchers were created before anything was read", made)
		}
		if _, err := s.Next(t.Context()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if made != 2*defaultLimits.queueControl {
			t.Errorf("after reading, %d were created", made)
		}
		s.Close()
		<-flooded
		if len(s.watchers) != 0 || h.index.count != 0 {
			t.Errorf("%d watchers live on after Close", h.index.count)
		}
	})
}

func TestEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(newDumb(), Options{})
		ctx, stop := context.WithCancel(t.Context())
		ran := make(chan struct{})
		go func() { defer close(ran); _ = h.Run(ctx) }()
		closed, open := h.NewStream(), h.NewStream()
		open.Create(key("a"))
		closed.Close()
		closed.Close()
		closed.Create(key("a"))
		if _, err := closed.Next(t.Context()); err != api.ErrCanceled {
			t.Errorf("Next after Close: %v", err)
		}
		if _, err := open.Next(t.Context()); err != nil {
			t.Error(err)
		}
		waiting := make(chan error)
		go func() {
			_, err := open.Next(context.Background())
			waiting <- err
		}()
		synctest.Wait()
		stop()
		<-ran
		if err := <-waiting; err != api.ErrStopped {
			t.Errorf("Next after Run has ended: %v", err)
		}
		late := h.NewStream()
		late.Create(key("a"))
		if _, err := late.Next(t.Context()); err != api.ErrStopped {
			t.Errorf("Next of a stream opened after Run has ended: %v", err)
		}
		late.Close()
	})
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	inBubble(t, Options{Registerer: reg, ClusterID: 7, MemberID: 8, Term: func() uint64 { return 9 }}, func(t *testing.T, h *testHub) {
		read, idle := h.NewStream(), h.NewStream()
		defer read.Close()
		defer idle.Close()
		read.Create(key("a"))
		idle.Create(key("a"))
		h.change(change{"a", "x"})
		for _, r := range h.read(read) {
			if x := r.Header; x.ClusterId != 7 || x.MemberId != 8 || x.RaftTerm != 9 {
				t.Errorf("header %v", x)
			}
		}
		got := map[string]float64{}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			m := f.GetMetric()[0]
			got[f.GetName()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
		want := map[string]float64{
			"etcd_debugging_mvcc_watch_stream_total": 2, "etcd_debugging_mvcc_watcher_total": 2,
			"etcd_debugging_mvcc_slow_watcher_total": 0, "etcd_debugging_mvcc_pending_events_total": 1,
			"etcd_debugging_mvcc_events_total": 1,
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	})
}
