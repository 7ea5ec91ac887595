package upgrade

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/upgrade/plan"
)

const (
	loadWriters  = 3
	loadEvery    = 30 * time.Millisecond // between two calls of one writer
	loadSettle   = 10 * time.Second      // for the watcher to be sent the last writes
	loadPage     = 1000
	loadFailures = 20 // failed calls that are told apart
)

// LoadResult is what the clients of a rehearsal felt.
type LoadResult struct {
	Requests   int          `json:"requests"`
	Failed     int          `json:"failed"`
	Acked      int          `json:"acked"`  // writes
	Lost       int          `json:"lost"`   // of them, at the end
	Missed     int          `json:"missed"` // of them, by the watcher
	LongestGap float64      `json:"longestGap"`
	Failures   []LoadFailed `json:"failures,omitempty"` // the first ones
}

// LoadFailed is one call that failed.
type LoadFailed struct {
	Time time.Time `json:"time"`
	Step string    `json:"step,omitempty"` // that was being done
	Text string    `json:"text"`

	began time.Time
	felt  bool // as a real etcd makes its clients feel when it is ended, or hands over
}

// load writes keys of its own, reads each back, and watches them. What was
// acknowledged is remembered, so that nothing can be lost unseen.
type load struct {
	cli     *clientv3.Client
	prefix  string
	cancel  context.CancelFunc // ends the writers
	deaf    context.CancelFunc // ends the watcher
	wg      sync.WaitGroup     // the writers
	watcher sync.WaitGroup

	mu    sync.Mutex // guards what follows
	res   LoadResult
	acked map[string]int64 // key → revision
	seen  map[int64]bool   // revisions that the watcher was sent
	last  time.Time        // a write went well
}

// startLoad begins; end stops it and judges.
func startLoad(inv *Inventory) (*load, error) {
	cli, err := inv.Client()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	wctx, deaf := context.WithCancel(context.Background())
	l := &load{cli: cli, prefix: "theseus-upgrade/" + inv.Cluster + "/load/", cancel: cancel, deaf: deaf,
		acked: map[string]int64{}, seen: map[int64]bool{}, last: time.Now()}
	first, err := l.put(ctx, l.prefix+"first", "0")
	if err != nil {
		l.stop()
		return nil, fmt.Errorf("write to the scratch cluster: %w", err)
	}
	for w := range loadWriters {
		l.wg.Go(func() { l.write(ctx, w) })
	}
	l.watcher.Go(func() { l.watch(wctx, first) })
	return l, nil
}

// put is one write, counted.
func (l *load) put(ctx context.Context, key, value string) (int64, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), canaryTimeout)
	defer cancel()
	r, err := l.cli.Put(ctx, key, value)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.res.Requests++; err != nil {
		l.failed("write", began, err)
		return 0, err
	}
	l.acked[key] = r.Header.Revision
	l.res.LongestGap = max(l.res.LongestGap, time.Since(l.last).Seconds())
	l.last = time.Now()
	return r.Header.Revision, nil
}

func (l *load) failed(what string, began time.Time, err error) {
	l.res.Failed++
	if len(l.res.Failures) < loadFailures {
		l.res.Failures = append(l.res.Failures, LoadFailed{Time: time.Now(), began: began, Text: what + ": " + oneLine(err)})
	}
}

// write puts a new key each time, and reads it back.
func (l *load) write(ctx context.Context, w int) {
	t := time.NewTicker(loadEvery)
	defer t.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		key := fmt.Sprintf("%s%d/%08d", l.prefix, w, n)
		if _, err := l.put(ctx, key, strconv.Itoa(n)); err == nil {
			l.read(ctx, key)
		}
	}
}

func (l *load) read(ctx context.Context, key string) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), canaryTimeout)
	defer cancel()
	r, err := l.cli.Get(ctx, key)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.res.Requests++; err != nil {
		l.failed("read", began, err)
	} else if len(r.Kvs) != 1 {
		l.failed("read", began, fmt.Errorf("%s was acknowledged and is not there", key))
	}
}

// watch follows all keys from a revision, over as many streams as it takes.
func (l *load) watch(ctx context.Context, from int64) {
	for ctx.Err() == nil {
		for resp := range l.cli.Watch(clientv3.WithRequireLeader(ctx), l.prefix, clientv3.WithPrefix(), clientv3.WithRev(from)) {
			l.mu.Lock()
			for _, e := range resp.Events {
				l.seen[e.Kv.ModRevision] = true
				from = e.Kv.ModRevision + 1
			}
			l.mu.Unlock()
			from = max(from, resp.CompactRevision)
		}
	}
}

// stop ends everything and waits for it.
func (l *load) stop() {
	l.cancel()
	l.wg.Wait()
	l.deaf()
	l.watcher.Wait()
	_ = l.cli.Close()
}

func (l *load) missed() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, rev := range l.acked {
		if !l.seen[rev] {
			n++
		}
	}
	return n
}

// end stops the clients, waits for them, and looks for every acknowledged write.
func (l *load) end(ctx context.Context) (LoadResult, error) {
	l.cancel()
	l.wg.Wait() // only now is it known what the watcher has to be sent
	defer l.stop()
	l.settle(ctx)
	l.res.Missed, l.res.Acked = l.missed(), len(l.acked)
	found := map[string]int64{}
	key, end := l.prefix, clientv3.GetPrefixRangeEnd(l.prefix)
	for {
		var r *clientv3.GetResponse
		err := bounded(ctx, askTimeout, func(ctx context.Context) (err error) {
			r, err = l.cli.Get(ctx, key, clientv3.WithRange(end), clientv3.WithLimit(loadPage))
			return err
		})
		if err != nil {
			return l.res, fmt.Errorf("read back what was written: %w", err)
		}
		for _, kv := range r.Kvs {
			found[string(kv.Key)] = kv.ModRevision
			key = string(kv.Key) + "\x00"
		}
		if !r.More {
			break
		}
	}
	for k, rev := range l.acked {
		if found[k] != rev {
			l.res.Lost++
		}
	}
	return l.res, nil
}

// settle gives the watcher time for the last writes.
func (l *load) settle(ctx context.Context) {
	t := time.NewTicker(loadEvery)
	defer t.Stop()
	for end := time.Now().Add(loadSettle); time.Now().Before(end) && l.missed() > 0; {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// during names for each failure the step that the journal had open at that moment, and
// marks those that a real etcd is the cause of, by a step that was open meanwhile.
func (r *LoadResult) during(recs []record, steps map[string]plan.Step) {
	for i := range r.Failures {
		f := &r.Failures[i]
		ours := map[string]bool{} // members that run Theseus by then
		for n, rec := range recs {
			if rec.Kind != recIntent || rec.Time.After(f.Time) {
				continue
			}
			s := steps[rec.Step]
			over := n+1 < len(recs) && recs[n+1].Time.Before(f.began)
			name := strings.TrimSpace(rec.Step + " (" + s.Text() + ")")
			if expected := !over && !ours[s.Member] && dropped(s.Kind, f.Text); expected || !f.felt {
				f.Step, f.felt = name, expected
			}
			if s.Kind == plan.Swap {
				ours[s.Member] = s.Target != nil && s.Target.Theseus
			}
		}
	}
}

// dropped says whether a real etcd's clients see such an error at such a step: when it is
// ended it drops what it is answering, and while it hands the leadership over it drops
// what it is asked to write, its own clients' with an error and the followers' without.
func dropped(k plan.Kind, text string) bool {
	marks := map[plan.Kind][]string{
		plan.Stop:       {"transport is closing", "closing transport", "error reading from server", "server stopped", "connection reset"},
		plan.MoveLeader: {"proposal dropped", "leader changed", "timed out", "deadline exceeded"},
	}
	marks[plan.Swap] = marks[plan.Stop] // it has only just ended
	for _, part := range marks[k] {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}
