package server

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"theseus/api"
)

// Rules of automatic compaction (surface 4.1).
const (
	revisionCompactEvery = 5 * time.Minute
	periodsPerInterval   = 10
)

// A compactor says when to compact to which revision. step is called at every tick
// of its interval and returns the revision to compact to, 0 for none; done tells it
// how that went.
type compactor interface {
	every() time.Duration
	step(now time.Time, rev int64) int64
	done(target int64, ok bool, now time.Time)
	String() string
}

// newCompactor reads the two flags; nil means that nothing compacts by itself.
func newCompactor(mode, retention string) (compactor, error) {
	if retention == "" || retention == "0" {
		return nil, nil
	}
	switch mode {
	case "", "periodic":
		d, err := parsePeriod(retention)
		if err != nil || d <= 0 {
			return nil, err
		}
		return newPeriodic(d), nil
	case "revision":
		n, err := strconv.ParseInt(retention, 10, 64)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("auto-compaction-retention %q is not a number of revisions", retention)
		}
		return &byRevision{retention: n}, nil
	default:
		return nil, fmt.Errorf("unsupported auto-compaction mode %q: use periodic or revision", mode)
	}
}

// parsePeriod reads a duration; a bare number is hours.
func parsePeriod(s string) (time.Duration, error) {
	if h, err := strconv.ParseInt(s, 10, 64); err == nil {
		return time.Duration(h) * time.Hour, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("auto-compaction-retention %q is neither hours nor a duration", s)
	}
	return d, nil
}

// periodic keeps a window of time: it notes the revision ten times an interval and
// compacts, once an interval, to the one noted a whole retention ago.
type periodic struct {
	retention, interval, tick time.Duration
	keep                      int     // notes that make up the retention
	noted                     []int64 // oldest first, at most keep
	next                      time.Time
	last                      int64
}

func newPeriodic(retention time.Duration) *periodic {
	interval := min(retention, time.Hour)
	tick := interval / periodsPerInterval
	return &periodic{retention: retention, interval: interval, tick: tick, keep: int(retention/tick) + 1}
}

func (p *periodic) every() time.Duration { return p.tick }
func (p *periodic) String() string       { return "periodic" }

func (p *periodic) step(now time.Time, rev int64) int64 {
	if p.next.IsZero() {
		p.next = now.Add(p.retention)
	}
	p.noted = append(p.noted, rev)
	if extra := len(p.noted) - p.keep; extra > 0 {
		p.noted = append(p.noted[:0], p.noted[extra:]...)
	}
	if now.Before(p.next) {
		return 0
	}
	if p.noted[0] == p.last {
		p.next = now.Add(p.interval)
		return 0
	}
	return p.noted[0]
}

func (p *periodic) done(target int64, ok bool, now time.Time) {
	if ok { // else it is tried again at the next tick
		p.last, p.next = target, now.Add(p.interval)
	}
}

// byRevision keeps a number of revisions.
type byRevision struct{ retention, last int64 }

func (r *byRevision) every() time.Duration { return revisionCompactEvery }
func (r *byRevision) String() string       { return "revision" }

func (r *byRevision) step(_ time.Time, rev int64) int64 {
	if target := rev - r.retention; target > 0 && target != r.last {
		return target
	}
	return 0
}

func (r *byRevision) done(target int64, ok bool, _ time.Time) {
	if ok {
		r.last = target
	}
}

// autoCompact drives a compactor until ctx ends. Only the leader compacts; the
// others keep notes, so that a new leader knows the past.
func autoCompact(ctx context.Context, c compactor, log *zap.Logger, rev func() int64, leads func() bool, compact func(context.Context, int64) error) {
	ticker := time.NewTicker(c.every())
	defer ticker.Stop()
	if p, ok := c.(*periodic); ok {
		p.step(time.Now(), rev())
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		start := time.Now()
		target := c.step(start, rev())
		if target == 0 || !leads() {
			continue
		}
		fields := []zap.Field{zap.Int64("revision", target)}
		log.Info("starting auto "+c.String()+" compaction", fields...)
		err := compact(ctx, target)
		ok := err == nil || errors.Is(err, api.ErrCompacted)
		c.done(target, ok, start)
		fields = append(fields, zap.Duration("took", time.Since(start)))
		if ok {
			log.Info("completed auto "+c.String()+" compaction", fields...)
		} else {
			log.Warn("failed auto "+c.String()+" compaction", append(fields, zap.Duration("retry-interval", c.every()), zap.Error(err))...)
		}
	}
}

// compactTo proposes a compaction in this member's own name.
func (s *Server) compactTo(ctx context.Context, rev int64) error {
	ctx, cancel := context.WithTimeout(ctx, s.o.requestTimeout())
	defer cancel()
	return s.requestAs(ctx, s.rootHeader(), fieldCompaction, encoded(&pb.CompactionRequest{Revision: rev}, nil), nil).Err
}
