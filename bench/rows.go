package bench

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// row is one line of the table: a workload on a cluster of a size.
type row struct {
	name    string
	members int
	run     func(c *cluster, length time.Duration) (sample, error)
}

var value256 = strings.Repeat("v", 256)

// rows are run in this order on one cluster for each size; the ones that fill
// the store come last.
var rows = []row{
	{"put, h2load", 1, func(c *cluster, _ time.Duration) (sample, error) {
		return h2load(c, "/etcdserverpb.KV/Put", &pb.PutRequest{Key: []byte("bench"), Value: []byte(value256)}, 16, 16, 60_000)
	}},
	{"get linearizable, h2load", 1, func(c *cluster, _ time.Duration) (sample, error) {
		return h2load(c, "/etcdserverpb.KV/Range", &pb.RangeRequest{Key: []byte("bench")}, 16, 16, 100_000)
	}},
	{"get serializable, h2load", 1, func(c *cluster, _ time.Duration) (sample, error) {
		return h2load(c, "/etcdserverpb.KV/Range", &pb.RangeRequest{Key: []byte("bench"), Serializable: true}, 16, 16, 100_000)
	}},
	{"put, 1 client", 1, put(1, 1)},
	{"put, 64 clients", 1, put(64, 16)},
	{"put, 1000 clients", 1, put(1000, 32)},
	{"get linearizable, 64 clients", 1, get(64, 16)},
	{"get serializable, 64 clients", 1, get(64, 16, clientv3.WithSerializable())},
	{"kubernetes txn, 64 clients", 1, kubernetes(64, 16)},
	{"lease grant + put, 64 clients", 1, leases(64, 16)},
	{"watch, 500 watchers of a prefix", 1, fanOut(500, 10)},
	{"watch, 500 watchers, cheap readers", 1, rawFanOut(500, 10)},
	{"list 10000 x 1 KiB", 1, list(0)},
	{"list page of 500", 1, list(500)},
	{"list 10000 x 1 KiB, h2load", 1, func(c *cluster, _ time.Duration) (sample, error) {
		return h2load(c, "/etcdserverpb.KV/Range", &pb.RangeRequest{Key: []byte("list/"), RangeEnd: []byte("list0")}, 2, 1, 200)
	}},
	{"peak memory after all rows", 1, func(c *cluster, _ time.Duration) (sample, error) {
		return sample{mib: c.peakMiB()}, nil
	}},
	{"put, 1 client, 3 members", 3, put(1, 1)},
	{"put, 64 clients, 3 members", 3, put(64, 18)},
	{"put, 1000 clients, 3 members", 3, put(1000, 33)},
	{"get linearizable, 64 clients, 3 members", 3, get(64, 18)},
	{"kubernetes txn, 64 clients, 3 members", 3, kubernetes(64, 18)},
}

func put(workers, conns int) func(*cluster, time.Duration) (sample, error) {
	return func(c *cluster, length time.Duration) (sample, error) {
		return closedLoop(c, workers, conns, length, func(ctx context.Context, cli *clientv3.Client, w, i int) error {
			_, err := cli.Put(ctx, fmt.Sprintf("put/%d/%d", w, i%1000), value256)
			return err
		})
	}
}

func get(workers, conns int, opts ...clientv3.OpOption) func(*cluster, time.Duration) (sample, error) {
	return func(c *cluster, length time.Duration) (sample, error) {
		return closedLoop(c, workers, conns, length, func(ctx context.Context, cli *clientv3.Client, w, i int) error {
			_, err := cli.Get(ctx, fmt.Sprintf("put/%d/%d", w, i%1000), opts...)
			return err
		})
	}
}

// kubernetes is the API server's optimistic put: compare the mod revision, put,
// and read on failure. Each worker owns its keys, so that the compare holds.
func kubernetes(workers, conns int) func(*cluster, time.Duration) (sample, error) {
	return func(c *cluster, length time.Duration) (sample, error) {
		revs := make([]map[string]int64, workers)
		for w := range revs {
			revs[w] = map[string]int64{}
		}
		return closedLoop(c, workers, conns, length, func(ctx context.Context, cli *clientv3.Client, w, i int) error {
			key := fmt.Sprintf("registry/pods/default/pod-%d-%d", w, i%100)
			resp, err := cli.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", revs[w][key])).
				Then(clientv3.OpPut(key, value256)).Else(clientv3.OpGet(key)).Commit()
			if err != nil {
				return err
			}
			if resp.Succeeded {
				revs[w][key] = resp.Header.Revision
			} else if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) == 1 {
				revs[w][key] = kvs[0].ModRevision
			}
			return nil
		})
	}
}

func leases(workers, conns int) func(*cluster, time.Duration) (sample, error) {
	return func(c *cluster, length time.Duration) (sample, error) {
		return closedLoop(c, workers, conns, length, func(ctx context.Context, cli *clientv3.Client, w, i int) error {
			l, err := cli.Grant(ctx, 600)
			if err != nil {
				return err
			}
			_, err = cli.Put(ctx, fmt.Sprintf("leased/%d/%d", w, i%100), "v", clientv3.WithLease(l.ID))
			return err
		})
	}
}

// list fills 10,000 keys of 1 KiB once and reads them all, or one page.
func list(limit int64) func(*cluster, time.Duration) (sample, error) {
	return func(c *cluster, length time.Duration) (sample, error) {
		if err := fill(c, "list/", 10_000, strings.Repeat("v", 1024)); err != nil {
			return sample{}, err
		}
		return closedLoop(c, 2, 2, length, func(ctx context.Context, cli *clientv3.Client, _, _ int) error {
			_, err := cli.Get(ctx, "list/", clientv3.WithPrefix(), clientv3.WithLimit(limit))
			return err
		})
	}
}

// fill puts n keys in transactions of 100, from eight clients.
func fill(c *cluster, prefix string, n int, value string) error {
	clis, closeAll, err := c.clients(8)
	if err != nil {
		return err
	}
	defer closeAll()
	var next atomic.Int64
	errs := make([]error, len(clis))
	var wg sync.WaitGroup
	for w, cli := range clis {
		wg.Go(func() {
			for errs[w] == nil {
				from := int(next.Add(100)) - 100
				if from >= n {
					return
				}
				var ops []clientv3.Op
				for i := from; i < min(n, from+100); i++ {
					ops = append(ops, clientv3.OpPut(fmt.Sprintf("%s%08d", prefix, i), value))
				}
				_, errs[w] = cli.Txn(context.Background()).Then(ops...).Commit()
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// fanOut has watchers of one prefix on a few connections and one writer; it
// counts events delivered.
func fanOut(watchers, conns int) func(*cluster, time.Duration) (sample, error) {
	return func(c *cluster, length time.Duration) (sample, error) {
		clis, closeAll, err := c.clients(conns)
		if err != nil {
			return sample{}, err
		}
		defer closeAll()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		var got atomic.Int64
		for w := range watchers {
			ch := clis[w%conns].Watch(ctx, "fan/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
			<-ch
			go func() {
				for r := range ch {
					got.Add(int64(len(r.Events)))
				}
			}()
		}
		return deliver(ctx, c, watchers, length, &got)
	}
}

// deliver puts from four clients and waits until every watcher has every event.
func deliver(ctx context.Context, c *cluster, watchers int, length time.Duration, got *atomic.Int64) (sample, error) {
	before, begin := c.cpu(), time.Now()
	writers, closeWriters, err := c.clients(4)
	if err != nil {
		return sample{}, err
	}
	defer closeWriters()
	sent, err := burst(ctx, writers, begin, length)
	if err != nil {
		return sample{}, err
	}
	for got.Load() < sent*int64(watchers) && time.Since(begin) < length+time.Minute {
		time.Sleep(time.Millisecond)
	}
	n := got.Load()
	if n != sent*int64(watchers) {
		return sample{}, fmt.Errorf("%d events delivered of %d", n, sent*int64(watchers))
	}
	return sample{perSecond: float64(n) / time.Since(begin).Seconds(), cpu: (c.cpu() - before) / time.Duration(n)}, nil
}

func burst(ctx context.Context, writers []*clientv3.Client, begin time.Time, length time.Duration) (int64, error) {
	var sent atomic.Int64
	errs := make([]error, len(writers))
	var wg sync.WaitGroup
	for w, cli := range writers {
		wg.Go(func() {
			for time.Since(begin) < length && errs[w] == nil {
				_, errs[w] = cli.Put(ctx, fmt.Sprintf("fan/%d", w), value256)
				sent.Add(1)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return sent.Load(), nil
}
