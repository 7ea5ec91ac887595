package upgrade

import (
	"context"
	"errors"
	"fmt"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"theseus/api"
	"theseus/upgrade/plan"
)

// view is what one member said of itself at one moment.
type view = plan.Member

// wire is the cluster as a run sees it: members are asked one by one, by the names of
// the inventory. The tests have a second one that breaks where they say.
type wire interface {
	// look asks one member for everything a gate judges; Err says why it did not answer.
	look(ctx context.Context, name string) view
	// hash asks one member for its hash of all keys up to a revision.
	hash(ctx context.Context, name string, rev int64) (plan.Hash, error)
	// moveLeader asks the leader to hand over.
	moveLeader(ctx context.Context, leader string, to uint64) error
	// announceMove tells a Theseus that does not lead that the leader is about to hand
	// over: it keeps writes back meanwhile, which a real leader would drop.
	announceMove(ctx context.Context, follower string, to uint64)
	// lower enables a downgrade of the whole cluster; unlower takes that back.
	lower(ctx context.Context, version string) error
	unlower(ctx context.Context) error
	// touch writes, reads, watches and leases once, and leaves nothing behind. It asks
	// every member but the named one.
	touch(ctx context.Context, without string) error
	close()
}

// errNoMove is what a member answers that is too old to hand its leadership over.
var errNoMove = errors.New("this version cannot be asked to move leadership")

// liveWire is the real one.
type liveWire struct {
	inv *Inventory
	g   *gatherer
	mu  sync.Mutex                  // guards what follows
	cli map[string]*clientv3.Client // by member's name, made when first needed
}

func newLiveWire(inv *Inventory) (*liveWire, error) {
	h, err := inv.HTTP()
	if err != nil {
		return nil, err
	}
	w := &liveWire{inv: inv, cli: map[string]*clientv3.Client{}}
	w.g = &gatherer{inv: inv, http: h}
	return w, nil
}

// client returns the client of one member. With a login it can be made only while the
// member answers, so that it may fail now and work later.
func (w *liveWire) client(name string) (*clientv3.Client, string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.inv.Members {
		if m.Name != name {
			continue
		}
		if c := w.cli[name]; c != nil {
			return c, m.Endpoint, nil
		}
		c, err := w.inv.Client(m.Endpoint)
		if err == nil {
			w.cli[name] = c
		}
		return c, m.Endpoint, err
	}
	return nil, "", fmt.Errorf("member %s is not in the inventory", name)
}

func (w *liveWire) look(ctx context.Context, name string) view {
	v := view{Name: name}
	c, endpoint, err := w.client(name)
	v.Endpoint = endpoint
	if err != nil {
		v.Err = oneLine(err)
		return v
	}
	g := &gatherer{inv: w.inv, http: w.g.http, cli: []*clientv3.Client{c}}
	err = bounded(ctx, lookTimeout, func(ctx context.Context) error { return g.status(ctx, 0, &v) })
	if err != nil {
		v.Err = oneLine(err)
		return v
	}
	for _, ask := range []func(context.Context, int, *plan.Member) error{g.versions, g.health, g.alarms, g.sees} {
		// What it does not answer stays zero, and a zero passes no gate.
		_ = bounded(ctx, lookTimeout, func(ctx context.Context) error { return ask(ctx, 0, &v) })
	}
	return v
}

func (w *liveWire) hash(ctx context.Context, name string, rev int64) (h plan.Hash, err error) {
	c, endpoint, err := w.client(name)
	if err != nil {
		return h, err
	}
	err = bounded(ctx, hashTimeout, func(ctx context.Context) error {
		r, err := c.HashKV(ctx, endpoint, rev)
		if err == nil {
			h = plan.Hash{Revision: rev, Compacted: r.CompactRevision, Hash: r.Hash}
		}
		return err
	})
	return h, err
}

func (w *liveWire) announceMove(ctx context.Context, follower string, to uint64) {
	c, _, err := w.client(follower)
	if err != nil {
		return
	}
	// Answered with "not leader" by those who know it and by those who do not.
	_ = bounded(ctx, moveTimeout, func(ctx context.Context) error {
		_, err := c.MoveLeader(metadata.AppendToOutgoingContext(ctx, api.TransferAhead, "1"), to)
		return err
	})
}

func (w *liveWire) moveLeader(ctx context.Context, leader string, to uint64) error {
	c, _, err := w.client(leader)
	if err != nil {
		return err
	}
	err = bounded(ctx, moveTimeout, func(ctx context.Context) error {
		_, err := c.MoveLeader(ctx, to)
		return err
	})
	if status.Code(err) == codes.Unimplemented {
		return errNoMove
	}
	return err
}

func (w *liveWire) lower(ctx context.Context, version string) error {
	return w.downgrade(ctx, clientv3.DowngradeEnable, version)
}

func (w *liveWire) unlower(ctx context.Context) error {
	return w.downgrade(ctx, clientv3.DowngradeCancel, "")
}

func (w *liveWire) downgrade(ctx context.Context, action clientv3.DowngradeAction, version string) error {
	c, err := w.inv.Client()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return bounded(ctx, moveTimeout, func(ctx context.Context) error {
		_, err := c.Downgrade(ctx, action, version)
		return err
	})
}

// touch is one canary by hand. Its key goes with its lease even when we are killed.
func (w *liveWire) touch(ctx context.Context, without string) error {
	var eps []string
	for _, m := range w.inv.Members {
		if m.Name != without || len(w.inv.Members) == 1 {
			eps = append(eps, m.Endpoint)
		}
	}
	c, err := w.inv.Client(eps...)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	return bounded(ctx, touchTimeout, func(ctx context.Context) error { return touch(ctx, c, canaryPrefix(w.inv.Cluster)+"gate") })
}

func touch(ctx context.Context, c *clientv3.Client, key string) error {
	lease, err := c.Grant(ctx, canaryTTL)
	if err != nil {
		return fmt.Errorf("lease grant: %w", err)
	}
	put, err := c.Put(ctx, key, "canary", clientv3.WithLease(lease.ID))
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	got, err := c.Get(ctx, key)
	if err != nil {
		return fmt.Errorf("linearizable read: %w", err)
	}
	if len(got.Kvs) != 1 || got.Kvs[0].ModRevision < put.Header.Revision {
		return fmt.Errorf("linearizable read does not have the write of revision %d: two histories?", put.Header.Revision)
	}
	wctx, cancel := context.WithCancel(ctx)
	defer cancel()
	select {
	case r, ok := <-c.Watch(clientv3.WithRequireLeader(wctx), key, clientv3.WithRev(put.Header.Revision)):
		if !ok || r.Err() != nil {
			return fmt.Errorf("watch: %w", errors.Join(r.Err(), ctx.Err()))
		}
	case <-ctx.Done():
		return fmt.Errorf("watch: no event of revision %d", put.Header.Revision)
	}
	if _, err := c.Revoke(ctx, lease.ID); err != nil {
		return fmt.Errorf("lease revoke: %w", err)
	}
	return nil
}

func (w *liveWire) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.cli {
		_ = c.Close()
	}
	w.g.http.CloseIdleConnections()
}

var _ wire = (*liveWire)(nil)
