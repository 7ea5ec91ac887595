package server

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"theseus/api"
)

func noForget(int64) error { return nil }

func TestLessorFollowerKnowsNothing(t *testing.T) {
	l := newLessor(time.Now, false)
	l.granted(1, 10)
	if _, err := l.renew(context.Background(), 1, noForget); !errors.Is(err, errNotPrimary) {
		t.Errorf("renew at a follower: %v", err)
	}
	if _, err := l.left(1); !errors.Is(err, errNotPrimary) {
		t.Errorf("left at a follower: %v", err)
	}
	if got := l.expired(); len(got) != 0 {
		t.Errorf("a follower expires %v", got)
	}
}

func TestLessorExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLessor(time.Now, false)
		l.promote(time.Second, []leaseInfo{{id: 1, ttl: 10}, {id: 2, ttl: 10, remaining: 3}})
		l.granted(3, 5)
		steps := []struct {
			at   time.Duration
			want []int64
		}{
			{3900 * time.Millisecond, nil},
			{4 * time.Second, []int64{2}},        // 3 remaining + 1 extended
			{5 * time.Second, []int64{3}},        // granted: not extended
			{7 * time.Second, []int64{2}},        // not revoked: handed out again
			{8 * time.Second, []int64{3}},        // so is this one
			{11 * time.Second, []int64{2, 1, 3}}, // 10 + 1 extended, and the others once more
		}
		start := time.Now()
		for _, step := range steps {
			time.Sleep(time.Until(start.Add(step.at)))
			got := l.expired()
			slices.Sort(got)
			slices.Sort(step.want)
			if !slices.Equal(got, step.want) {
				t.Errorf("at %v expired %v, want %v", step.at, got, step.want)
			}
		}
		l.revoked(1)
		if _, err := l.left(1); err != api.ErrLeaseNotFound {
			t.Errorf("after its revoke: %v", err)
		}
	})
}

func TestLessorRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLessor(time.Now, false)
		l.promote(0, nil)
		l.granted(1, 10)
		time.Sleep(8 * time.Second)
		if ttl, err := l.renew(t.Context(), 1, noForget); ttl != 10 || err != nil {
			t.Fatalf("renew = %d, %v", ttl, err)
		}
		time.Sleep(8 * time.Second)
		if left, err := l.left(1); left != 2 || err != nil {
			t.Errorf("left = %d, %v, want 2", left, err)
		}
		time.Sleep(3 * time.Second)

		// Expired, not revoked yet: a renewal waits and then finds it gone.
		result := make(chan error)
		go func() {
			_, err := l.renew(t.Context(), 1, noForget)
			result <- err
		}()
		synctest.Wait()
		select {
		case err := <-result:
			t.Fatalf("renew of an overdue lease did not wait: %v", err)
		default:
		}
		l.revoked(1)
		if err := <-result; err != api.ErrLeaseNotFound {
			t.Errorf("renew = %v, want %v", err, api.ErrLeaseNotFound)
		}
	})
}

func TestLessorDemotionEndsWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLessor(time.Now, false)
		l.promote(0, nil)
		l.granted(1, 1)
		time.Sleep(2 * time.Second)
		result := make(chan error)
		go func() {
			_, err := l.renew(t.Context(), 1, noForget)
			result <- err
		}()
		synctest.Wait()
		l.demote()
		if err := <-result; !errors.Is(err, errNotPrimary) {
			t.Errorf("renew = %v, want %v", err, errNotPrimary)
		}
	})
}

func TestLessorSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLessor(time.Now, false)
		var all []leaseInfo
		for id := int64(1); id <= 3000; id++ {
			all = append(all, leaseInfo{id: id, ttl: 5})
		}
		l.promote(0, all)
		time.Sleep(5 * time.Second)
		var perSecond []int
		for total := 0; total < 3000; {
			n := 0
			for range 2 { // the server asks twice a second
				n += len(l.expired())
				time.Sleep(500 * time.Millisecond)
			}
			perSecond = append(perSecond, n)
			if total += n; len(perSecond) > 10 {
				t.Fatalf("only %d leases expired: %v", total, perSecond)
			}
			for id := range l.leases { // what was handed out is revoked
				if l.leases[id].due.After(l.leases[id].expiry) {
					l.revoked(id)
				}
			}
		}
		if slices.Max(perSecond) > spreadAbove {
			t.Errorf("expired in the seconds: %v, want at most %d", perSecond, spreadAbove)
		}
	})
}

func TestLessorCheckpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLessor(time.Now, true)
		l.promote(0, nil)
		l.granted(1, 3600)
		l.granted(2, 60) // too short
		time.Sleep(checkpointEvery)
		due := l.dueCheckpoints()
		if len(due) != 1 || due[0].id != 1 || due[0].remaining != 3300 {
			t.Fatalf("due = %+v", due)
		}
		l.checkpointed(1, 3300)
		forgotten := int64(0)
		if _, err := l.renew(t.Context(), 1, func(id int64) error { forgotten = id; l.checkpointed(id, 0); return nil }); err != nil {
			t.Fatal(err)
		}
		if forgotten != 1 {
			t.Error("a renewal did not forget the checkpoint")
		}
	})
}
