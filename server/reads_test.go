package server

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"theseus/api"
)

// fakeRaft takes the rounds that reads ask for.
type fakeRaft struct {
	mu      sync.Mutex
	rounds  []uint64
	applied atomic.Uint64
	ids     atomic.Uint64
}

func (f *fakeRaft) reads() *reads {
	r := newReads()
	r.applied, r.newID = f.applied.Load, func() uint64 { return f.ids.Add(1) }
	r.ask = func(rctx []byte) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.rounds = append(f.rounds, binary.BigEndian.Uint64(rctx))
	}
	return r
}

func (f *fakeRaft) asked() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fmt.Sprint(f.rounds)
}

// outcomes collects how reads ended.
type outcomes struct{ chans []chan error }

func (o *outcomes) add(r *reads) {
	ch := make(chan error, 1)
	o.chans = append(o.chans, ch)
	r.add(&waitRead{ch: ch})
}

func (o *outcomes) String() string {
	synctest.Wait()
	text := ""
	for _, ch := range o.chans {
		select {
		case err := <-ch:
			if err == nil {
				text += " ok"
			} else {
				text += " " + err.Error()
			}
			ch <- err
		default:
			text += " -"
		}
	}
	return text
}

func expect(t *testing.T, what string, got fmt.Stringer, want string) {
	t.Helper()
	if g := got.String(); g != want {
		t.Errorf("%s: %q, want %q", what, g, want)
	}
}

func TestReadsShareRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRaft{}
		r := f.reads()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go r.serve(ctx)
		f.applied.Store(10)

		o := &outcomes{}
		o.add(r)
		o.add(r) // these two come while the first one's round is under way
		o.add(r)
		if f.asked() != "[1]" {
			t.Errorf("rounds asked: %s", f.asked())
		}
		r.answered(encodeRound(1), 10)
		expect(t, "after round 1", o, " ok - -")
		if f.asked() != "[1 2]" {
			t.Errorf("rounds asked: %s", f.asked())
		}
		r.answered(encodeRound(1), 10) // a late copy means nothing
		expect(t, "after a copy", o, " ok - -")
		r.answered(encodeRound(2), 12)
		expect(t, "confirmed, not applied", o, " ok - -")
		f.applied.Store(11)
		r.appliedTo(11)
		expect(t, "applied to 11", o, " ok - -")
		f.applied.Store(12)
		r.appliedTo(12)
		expect(t, "applied to 12", o, " ok ok ok")
		r.stop()
		o.add(r)
		expect(t, "after stop", o, " ok ok ok "+api.ErrStopped.Error())
	})
}

func TestReadsRetryAndTimeOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRaft{}
		r := f.reads()
		go r.serve(t.Context())
		o := &outcomes{}
		o.add(r)
		if retried, _ := r.tick(time.Now()); retried {
			t.Error("asked again at once")
		}
		time.Sleep(readRetry)
		if retried, _ := r.tick(time.Now()); !retried || f.asked() != "[1 1]" {
			t.Errorf("after %v: retried %v, asked %s", readRetry, retried, f.asked())
		}
		r.leaderChanged()
		if f.asked() != "[1 1 1]" {
			t.Errorf("after a change of leader: asked %s", f.asked())
		}
		r.answered(encodeRound(1), 5) // not applied
		o.add(r)
		time.Sleep(r.timeout + time.Second)
		_, failed := r.tick(time.Now())
		if failed != 2 {
			t.Errorf("failed %d, want 2", failed)
		}
		expect(t, "timed out", o, " "+api.ErrTimeoutWaitAppliedIndex.Error()+" "+api.ErrTimeout.Error())
		o = &outcomes{}
		o.add(r)
		time.Sleep(time.Millisecond)
		r.leaderChanged()
		time.Sleep(r.timeout + time.Second)
		r.tick(time.Now())
		expect(t, "the leader changed meanwhile", o, " "+api.ErrLeaderChanged.Error())
	})
}

// TestReadsRace hammers all ends at once; each read must end exactly once.
func TestReadsRace(t *testing.T) {
	f := &fakeRaft{}
	r := f.reads()
	answers := make(chan []byte, 1024)
	r.ask = func(rctx []byte) { answers <- rctx }
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { r.serve(ctx) })
	wg.Go(func() {
		for index := uint64(1); ; index++ {
			select {
			case rctx := <-answers:
				r.answered(rctx, index)
				f.applied.Store(index)
				r.appliedTo(index)
			case <-ctx.Done():
				return
			}
		}
	})
	const readers, each = 20, 500
	var readsDone sync.WaitGroup
	for range readers {
		readsDone.Go(func() {
			for range each {
				w := &waitRead{ch: make(chan error, 1)}
				r.add(w)
				if err := <-w.ch; err != nil {
					t.Error(err)
				}
			}
		})
	}
	readsDone.Wait()
	cancel()
	wg.Wait()
}
