package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/test/history"
)

// requestTimeout bounds one client call; one that runs into it has an unknown
// outcome.
const requestTimeout = 3 * time.Second

// load is clients that call until they are stopped.
type load struct {
	rec     *history.Recorder
	keys    int
	stop    chan struct{}
	wg      sync.WaitGroup
	done    atomic.Int64 // calls that were answered
	pause   time.Duration
	unknown atomic.Int64
	trace   *trace // of calls without an answer and of writes; nil keeps none
}

// start adds one client that talks to the given endpoints, with its own seed.
func (l *load) start(id int, seed uint64, cli *clientv3.Client) {
	l.wg.Add(1)
	go func() {
		defer l.wg.Done()
		rnd := rand.New(rand.NewPCG(seed, uint64(id)))
		seen := map[string]int64{} // mod revision last read of each key
		for n := 0; ; n++ {
			select {
			case <-l.stop:
				return
			case <-time.After(time.Duration(rnd.Int64N(int64(2*l.pause) + 1))):
			}
			l.call(id, n, rnd, cli, seen)
		}
	}()
}

// call makes one request at random.
func (l *load) call(id, n int, rnd *rand.Rand, cli *clientv3.Client, seen map[string]int64) {
	q := history.Request{Key: fmt.Sprintf("k%d", rnd.IntN(l.keys)), Value: fmt.Sprintf("c%d-%d", id, n)}
	switch d := rnd.IntN(10); {
	case d < 4:
		q.Kind, q.Value = history.Get, ""
	case d < 7:
		q.Kind = history.Put
	case d < 9:
		q.Kind, q.Expect = history.Swap, seen[q.Key]
	default:
		q.Kind, q.Value = history.Delete, ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	began := time.Now()
	ctx, asked := withAsked(ctx)
	a, err := l.rec.Do(id, q, func() (history.Answer, error) { return do(ctx, cli, q) })
	l.trace.call(id, q, began, *asked, err)
	if err != nil {
		l.unknown.Add(1)
		return
	}
	l.done.Add(1)
	if q.Kind == history.Get {
		seen[q.Key] = a.Mod
	}
}

func do(ctx context.Context, cli *clientv3.Client, q history.Request) (history.Answer, error) {
	switch q.Kind {
	case history.Get:
		r, err := cli.Get(ctx, q.Key)
		if err != nil {
			return history.Answer{}, err
		}
		a := history.Answer{Revision: r.Header.Revision}
		if len(r.Kvs) == 1 {
			a.Found, a.Value, a.Mod = true, string(r.Kvs[0].Value), r.Kvs[0].ModRevision
		}
		return a, nil
	case history.Put:
		r, err := cli.Put(ctx, q.Key, q.Value)
		if err != nil {
			return history.Answer{}, err
		}
		return history.Answer{Revision: r.Header.Revision}, nil
	case history.Delete:
		r, err := cli.Delete(ctx, q.Key)
		if err != nil {
			return history.Answer{}, err
		}
		return history.Answer{Revision: r.Header.Revision, Found: r.Deleted == 1}, nil
	}
	r, err := cli.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(q.Key), "=", q.Expect)).Then(clientv3.OpPut(q.Key, q.Value)).Commit()
	if err != nil {
		return history.Answer{}, err
	}
	return history.Answer{Succeeded: r.Succeeded, Revision: r.Header.Revision}, nil
}

func (l *load) end() {
	close(l.stop)
	l.wg.Wait()
}

// follow watches the keys from a revision, over reconnects, until ctx ends: each
// time the stream breaks it goes on from the revision after the last one seen,
// which is what a client of etcd does.
// seen is kept at the revision of the newest event or bookmark.
func follow(ctx context.Context, cli *clientv3.Client, name string, from int64, seen *atomic.Int64, opts ...clientv3.OpOption) *history.Stream {
	s := &history.Stream{Name: name, Start: from}
	for ctx.Err() == nil {
		opts := append([]clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithRev(max(from, s.Last()+1))}, opts...)
		for r := range cli.Watch(clientv3.WithRequireLeader(ctx), "k", opts...) {
			s.Add(r)
			seen.Store(s.Last())
		}
	}
	return s
}
