package wait

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
)

func TestResults(t *testing.T) {
	r := NewResults[string]()
	if r.Trigger(1, "nobody") || r.IsRegistered(1) {
		t.Error("somebody waits in an empty place")
	}
	one, two := r.Register(1), r.Register(1+shardCount) // of one shard
	if !r.IsRegistered(1) || !r.Trigger(1, "a") || r.Trigger(1, "again") || r.IsRegistered(1) {
		t.Error("the waiter of 1 was not met exactly once")
	}
	if v, err := one.Wait(t.Context()); v != "a" || err != nil {
		t.Errorf("1 got %q, %v", v, err)
	}
	two.Cancel()
	if r.Trigger(1+shardCount, "late") {
		t.Error("a waiter that has left was met")
	}
}

func TestResultsRegisterTwice(t *testing.T) {
	r := NewResults[int]()
	r.Register(1)
	defer func() {
		if recover() == nil {
			t.Error("an id was registered twice")
		}
	}()
	r.Register(1)
}

func TestResultsWaitEnds(t *testing.T) {
	r := NewResults[int]()
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := r.Register(1).Wait(ctx); err != why || r.IsRegistered(1) {
		t.Errorf("wait ended with %v", err)
	}
	// A result that came before the end of ctx was seen is not thrown away.
	for range 100 {
		w := r.Register(2)
		r.Trigger(2, 7)
		if v, err := w.Wait(ctx); v != 7 || err != nil {
			t.Fatalf("got %d, %v", v, err)
		}
	}
	// And a waiter whose result nobody took does not bring it to the next user.
	w := r.Register(3)
	r.Trigger(3, 8)
	w.Cancel()
	for id := range uint64(100) {
		if v, err := r.Register(id + 10).Wait(ctx); err == nil {
			t.Fatalf("a stale result %d", v)
		}
	}
}

func TestResultsTriggerAll(t *testing.T) {
	r := NewResults[int]()
	var all []*Waiter[int]
	for id := range uint64(200) {
		all = append(all, r.Register(id))
	}
	r.TriggerAll(9)
	for _, w := range all {
		if v, err := w.Wait(t.Context()); v != 9 || err != nil {
			t.Fatalf("got %d, %v", v, err)
		}
	}
}

func TestResultsConcurrent(t *testing.T) {
	r := NewResults[uint64]()
	ids := make(chan uint64, 64)
	var wg sync.WaitGroup
	for g := range uint64(4) {
		wg.Go(func() {
			for i := range uint64(2000) {
				id := i*4 + g
				w := r.Register(id)
				ids <- id
				if i%7 == 0 {
					w.Cancel()
				} else if v, err := w.Wait(t.Context()); v != id || err != nil {
					t.Errorf("%d got %d, %v", id, v, err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for id := range ids {
			r.Trigger(id, id)
		}
	}()
	wg.Wait()
	close(ids)
	<-done
}

func TestIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var x Index
		if err := x.Wait(t.Context(), 0); err != nil {
			t.Error(err)
		}
		var mu sync.Mutex
		met := map[uint64]int{}
		wait := func(index uint64) {
			if err := x.Wait(t.Context(), index); err != nil {
				t.Error(err)
			}
			mu.Lock()
			met[index]++
			mu.Unlock()
		}
		for _, index := range []uint64{5, 3, 3, 9, 7} {
			go wait(index)
		}
		for _, step := range []struct {
			to   uint64
			want map[uint64]int
		}{
			{2, map[uint64]int{}}, {3, map[uint64]int{3: 2}}, {1, map[uint64]int{3: 2}},
			{8, map[uint64]int{3: 2, 5: 1, 7: 1}}, {9, map[uint64]int{3: 2, 5: 1, 7: 1, 9: 1}},
		} {
			x.Advance(step.to)
			synctest.Wait()
			for index := range uint64(10) {
				if met[index] != step.want[index] {
					t.Errorf("at %d: %d waiters of %d went on, want %d", step.to, met[index], index, step.want[index])
				}
			}
		}
		if x.Current() != 9 || len(x.queue) != 0 || len(x.at) != 0 {
			t.Errorf("at the end: index %d, %d marks", x.Current(), len(x.queue))
		}
	})
}

func TestIndexLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var x Index
		why := errors.New("why")
		ctx, cancel := context.WithCancelCause(t.Context())
		gone, stays := make(chan error, 3), make(chan error, 1)
		for _, index := range []uint64{4, 6, 6} {
			go func() { gone <- x.Wait(ctx, index) }()
		}
		go func() { stays <- x.Wait(t.Context(), 6) }()
		synctest.Wait()
		cancel(why)
		for range 3 {
			if err := <-gone; err != why {
				t.Errorf("wait ended with %v", err)
			}
		}
		if len(x.queue) != 1 || len(x.at) != 1 {
			t.Errorf("%d marks are left, want that of 6", len(x.queue))
		}
		x.Advance(10)
		if err := <-stays; err != nil {
			t.Error(err)
		}
	})
}

func BenchmarkResults(b *testing.B) {
	r := NewResults[int]()
	ctx := b.Context()
	b.ReportAllocs()
	for id := uint64(1); b.Loop(); id++ {
		w := r.Register(id)
		r.Trigger(id, 1)
		if _, err := w.Wait(ctx); err != nil {
			b.Fatal(err)
		}
	}
}
