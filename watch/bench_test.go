package watch

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
)

// BenchmarkFanOut measures events that reach watchers of one prefix, as encoded
// responses out of Next: all watchers on one stream, or each on its own.
func BenchmarkFanOut(b *testing.B) {
	for _, batch := range []int{1, 64} { // revisions between which nobody waits
		for _, bb := range []struct{ streams, watchers int }{{1, 1}, {1, 500}, {500, 1}, {10, 1000}} {
			b.Run(fmt.Sprintf("batch%d/%dx%d", batch, bb.streams, bb.watchers), func(b *testing.B) { fanOut(b, bb.streams, bb.watchers, batch) })
		}
	}
}

func fanOut(b *testing.B, streams, watchers, batch int) {
	d := newDumb()
	h := newHub(d, Options{ClusterID: 1 << 62, MemberID: 1 << 61, Term: func() uint64 { return 2 }})
	ctx, stop := context.WithCancel(b.Context())
	ran := make(chan struct{})
	go func() { defer close(ran); _ = h.Run(ctx) }()
	var bytes atomic.Int64
	for range streams {
		s := h.NewStream()
		for range watchers {
			s.Create(rng("/registry/pods/", "/registry/pods0"))
			if _, err := s.Next(ctx); err != nil { // the answer
				b.Fatal(err)
			}
		}
		go func() {
			for {
				list, err := s.Next(ctx)
				if err != nil {
					return
				}
				n := 0
				for _, r := range list {
					n += len(r)
				}
				bytes.Add(int64(n))
			}
		}()
	}
	value := strings.Repeat("x", 256)
	b.ReportAllocs()
	b.ResetTimer()
	n := 0
	for b.Loop() {
		events := d.apply(change{fmt.Sprint("/registry/pods/default/p", n%1000), value})
		h.Notify(events, d.current())
		n++
		if n%batch == 0 {
			for h.eventsSent.Load() < int64(n*streams*watchers) {
				runtime.Gosched()
			}
		}
	}
	for h.eventsSent.Load() < int64(n*streams*watchers) {
		runtime.Gosched()
	}
	b.StopTimer()
	total := float64(n * streams * watchers)
	b.ReportMetric(total/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(b.Elapsed().Seconds()*1e9/total, "ns/event")
	b.ReportMetric(float64(bytes.Load())/total, "B/event")
	stop()
	<-ran
}
