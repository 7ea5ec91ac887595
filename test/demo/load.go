package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/upgrade"
)

const (
	writers   = 4
	every     = 20 * time.Millisecond
	patience  = 5 * time.Second
	keysFirst = 500 // written before anything else
)

// load is the clients of the demo: each write is remembered with its revision, and
// looked for at the end, in the store and in what the watcher was sent.
type load struct {
	cli          *clientv3.Client
	stopWriters  context.CancelFunc
	stopWatcher  context.CancelFunc
	writers      sync.WaitGroup
	watcher      sync.WaitGroup
	mu           sync.Mutex // guards what follows
	acked        map[string]int64
	seen         map[int64]bool
	requests     int
	failed       int
	first        string // error
	last         time.Time
	gap          time.Duration
	lost, missed int
}

// startLoad waits for the cluster, fills it, and begins.
func startLoad(ctx context.Context, inv *upgrade.Inventory) (*load, error) {
	cli, err := inv.Client()
	if err != nil {
		return nil, err
	}
	l := &load{cli: cli, acked: map[string]int64{}, seen: map[int64]bool{}}
	for end := time.Now().Add(30 * time.Second); ; {
		if err = l.put(ctx, "app/first", "1"); err == nil {
			break
		}
		if ctx.Err() != nil || time.Now().After(end) {
			return nil, errors.Join(fmt.Errorf("the cluster does not come up: %w", err), cli.Close())
		}
	}
	from := l.acked["app/first"]
	l.requests, l.failed, l.first, l.gap = 0, 0, "", 0
	for i := range keysFirst {
		if err := l.put(ctx, fmt.Sprintf("app/seed/%04d", i), "some value"); err != nil {
			return nil, errors.Join(fmt.Errorf("fill the cluster: %w", err), cli.Close())
		}
	}
	writing, stopWriters := context.WithCancel(context.Background())
	watching, stopWatcher := context.WithCancel(context.Background())
	l.stopWriters, l.stopWatcher = stopWriters, stopWatcher
	for w := range writers {
		l.writers.Go(func() { l.write(writing, w) })
	}
	l.watcher.Go(func() { l.watch(watching, from) })
	return l, nil
}

func (l *load) put(ctx context.Context, key, value string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	r, err := l.cli.Put(ctx, key, value)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count(err)
	if err == nil {
		l.acked[key] = r.Header.Revision
		if !l.last.IsZero() {
			l.gap = max(l.gap, time.Since(l.last))
		}
		l.last = time.Now()
	}
	return err
}

func (l *load) count(err error) {
	if l.requests++; err != nil {
		if l.failed++; l.first == "" {
			l.first = err.Error()
		}
	}
}

func (l *load) write(ctx context.Context, w int) {
	t := time.NewTicker(every)
	defer t.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		key := fmt.Sprintf("app/%d/%06d", w, n)
		if l.put(ctx, key, "v") != nil {
			continue
		}
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		r, err := l.cli.Get(rctx, key)
		cancel()
		if err == nil && len(r.Kvs) == 0 {
			err = errors.New("read: an acknowledged write is not there")
		}
		l.mu.Lock()
		l.count(err)
		l.mu.Unlock()
	}
}

func (l *load) watch(ctx context.Context, from int64) {
	for ctx.Err() == nil {
		for r := range l.cli.Watch(clientv3.WithRequireLeader(ctx), "app/", clientv3.WithPrefix(), clientv3.WithRev(from)) {
			l.mu.Lock()
			for _, e := range r.Events {
				l.seen[e.Kv.ModRevision] = true
				from = e.Kv.ModRevision + 1
			}
			l.mu.Unlock()
		}
	}
}

// stop ends the clients and looks for every write.
func (l *load) stop() error {
	l.stopWriters()
	l.writers.Wait()
	for end := time.Now().Add(patience); l.unseen() > 0 && time.Now().Before(end); {
		time.Sleep(every)
	}
	l.stopWatcher()
	l.watcher.Wait()
	l.missed = l.unseen()
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	defer cancel()
	r, err := l.cli.Get(ctx, "app/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return errors.Join(fmt.Errorf("read everything back: %w", err), l.cli.Close())
	}
	found := map[string]int64{}
	for _, kv := range r.Kvs {
		found[string(kv.Key)] = kv.ModRevision
	}
	for key, rev := range l.acked {
		if found[key] != rev {
			l.lost++
		}
	}
	return l.cli.Close()
}

func (l *load) unseen() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, rev := range l.acked {
		if !l.seen[rev] {
			n++
		}
	}
	return n
}

// String is the summary.
func (l *load) String() string {
	text := fmt.Sprintf("Its clients made %d requests: %d failed, the longest gap in writes was %s.\nOf %d acknowledged writes %d were lost, and the watcher missed %d.",
		l.requests, l.failed, l.gap.Round(time.Millisecond), len(l.acked), l.lost, l.missed)
	if l.first != "" {
		text += "\nThe first that failed (nothing was tried twice): " + l.first
	}
	return text
}
