package server

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestNewCompactor(t *testing.T) {
	for _, tt := range []struct{ mode, retention, want string }{
		{"periodic", "0", "<nil>"},
		{"periodic", "", "<nil>"},
		{"periodic", "1", "periodic"},
		{"", "5m", "periodic"},
		{"revision", "1000", "revision"},
		{"revision", "5m", "not a number"},
		{"periodic", "soon", "neither hours nor a duration"},
		{"sometimes", "1", "unsupported"},
	} {
		c, err := newCompactor(tt.mode, tt.retention)
		got := fmt.Sprint(c)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, tt.want) {
			t.Errorf("newCompactor(%q, %q) = %s, want %s", tt.mode, tt.retention, got, tt.want)
		}
	}
}

// TestPeriodicCompaction lets ten revisions pass every tick and looks which are
// compacted when.
func TestPeriodicCompaction(t *testing.T) {
	for _, tt := range []struct {
		retention time.Duration
		ticks     int
		want      string // tick:revision
	}{
		// First after a whole retention, then every interval, to what was one retention ago.
		{time.Hour, 35, "10:0 20:100 30:200"},
		{3 * time.Hour, 55, "30:0 40:100 50:200"},
		{5 * time.Minute, 25, "10:0 20:100"},
	} {
		p := newPeriodic(tt.retention)
		now := time.Unix(0, 0)
		p.step(now, 0)
		p.last = -1 // so that revision 0 counts in this test
		got := ""
		for i := 1; i <= tt.ticks; i++ {
			now = now.Add(p.every())
			before := p.next
			target := p.step(now, int64(i*10))
			if !now.Before(before) && p.next == before {
				got += fmt.Sprintf(" %d:%d", i, target)
				p.done(target, true, now)
			}
		}
		if got = strings.TrimSpace(got); got != tt.want {
			t.Errorf("retention %v: %s, want %s", tt.retention, got, tt.want)
		}
	}
}

func TestPeriodicRetriesAndSkips(t *testing.T) {
	p := newPeriodic(time.Hour)
	now := time.Unix(0, 0)
	var target int64
	for i := range 11 {
		target = p.step(now.Add(time.Duration(i)*p.every()), int64(100+i))
	}
	if target != 100 {
		t.Fatalf("target = %d", target)
	}
	at := now.Add(10 * p.every())
	p.done(target, false, at)
	if target = p.step(at.Add(p.every()), 111); target != 101 {
		t.Errorf("after a failure: %d at the next tick, want 101", target)
	}
	p.done(target, true, at.Add(p.every()))
	if target = p.step(at.Add(2*p.every()), 112); target != 0 {
		t.Errorf("right after a success: %d", target)
	}
}

func TestRevisionCompaction(t *testing.T) {
	r := &byRevision{retention: 100}
	for _, step := range []struct{ rev, want int64 }{{50, 0}, {100, 0}, {150, 50}, {150, 0}, {151, 51}} {
		got := r.step(time.Time{}, step.rev)
		if got != step.want {
			t.Errorf("at revision %d: %d, want %d", step.rev, got, step.want)
		}
		r.done(got, got != 0, time.Time{})
	}
}
