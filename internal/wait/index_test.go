package wait

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
)

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
