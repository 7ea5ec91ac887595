package upgrade

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestBeat has one call that hangs to its time limit: the next ones are made all the
// same, so that one lost request is not taken for a standstill.
func TestBeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*canaryEvery+canaryEvery/2)
		defer cancel()
		var calls atomic.Int32
		begin := time.Now()
		beat(ctx, func(ctx context.Context, n int) {
			if calls.Add(1); n == 1 {
				<-ctx.Done()
			}
		})
		if n := calls.Load(); n != 10 {
			t.Errorf("%d calls beside the one that hangs, want 10", n)
		}
		if took := time.Since(begin); took < canaryTimeout {
			t.Errorf("beat left a call behind after %s", took)
		}
	})
}

// TestCanary_stalled tells a gap once, and none for clusters that cannot be moved
// without one.
func TestCanary_stalled(t *testing.T) {
	inv := &Inventory{Members: make([]InventoryMember, 3)}
	c := &canary{inv: inv, worst: 3 * time.Second}
	if got := c.stalled(2 * time.Second); got != "3s" {
		t.Errorf("told %q", got)
	}
	if got := c.stalled(2 * time.Second); got != "" {
		t.Errorf("told again: %q", got)
	}
	c.worst, inv.Members = 3*time.Second, inv.Members[:1]
	if got := c.stalled(2 * time.Second); got != "" {
		t.Errorf("told of one member: %q", got)
	}
	var none *canary
	if none.stalled(0) != "" || none.now() != "" || none.result() != (Felt{}) {
		t.Error("no canary measures nothing")
	}
}
