package node

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"theseus/wal"
)

// benchApplier counts, and wakes the proposer of an entry.
type benchApplier struct {
	conf    raftpb.ConfState
	waiters sync.Map
	batches atomic.Int64
	ents    atomic.Int64
	applied uint64
}

func (a *benchApplier) Apply(ents []raftpb.Entry, change func(raftpb.ConfChange) raftpb.ConfState) (int, error) {
	a.batches.Add(1)
	for i := range ents {
		e := &ents[i]
		a.applied = e.Index
		switch {
		case e.Type == raftpb.EntryConfChange:
			var cc raftpb.ConfChange
			if err := cc.Unmarshal(e.Data); err != nil {
				return 0, err
			}
			a.conf = change(cc)
		case len(e.Data) >= 8:
			a.ents.Add(1)
			if ch, ok := a.waiters.Load(binary.BigEndian.Uint64(e.Data)); ok {
				ch.(chan struct{}) <- struct{}{}
			}
		}
	}
	return len(ents), nil
}
func (a *benchApplier) ApplySnapshot(s raftpb.Snapshot) error { return nil }
func (a *benchApplier) Snapshot(stream bool) (raftpb.Snapshot, io.ReadCloser, int64, error) {
	return raftpb.Snapshot{}, nil, 0, fmt.Errorf("none")
}
func (a *benchApplier) Flush() error { return nil }

type loopback struct {
	mu    sync.RWMutex
	nodes map[uint64]*Node
	sent  atomic.Int64
}

func (l *loopback) Send(ms []raftpb.Message) {
	l.sent.Add(int64(len(ms)))
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, m := range ms {
		if n := l.nodes[m.To]; n != nil {
			_ = n.Step(m)
		}
	}
}
func (l *loopback) SendSnapshot(m raftpb.Message, db io.ReadCloser, size int64) {}

func benchNodes(b *testing.B, count, clients int) {
	net := &loopback{nodes: map[uint64]*Node{}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var peers []raft.Peer
	for id := range uint64(count) {
		peers = append(peers, raft.Peer{ID: id + 1})
	}
	var appliers []*benchApplier
	for id := range uint64(count) {
		w, err := wal.Create(filepath.Join(b.TempDir(), "wal"), nil, wal.Options{})
		if err != nil {
			b.Fatal(err)
		}
		a := &benchApplier{}
		n, err := New(Options{ID: id + 1, WAL: w, Peers: peers, Applier: a, Transport: net, PreVote: true, SnapshotCount: 1 << 40})
		if err != nil {
			b.Fatal(err)
		}
		net.mu.Lock()
		net.nodes[id+1] = n
		net.mu.Unlock()
		appliers = append(appliers, a)
		wg.Go(func() {
			if err := n.Run(ctx); err != nil {
				b.Error(err)
			}
			w.Close()
		})
	}
	lead := net.nodes[1]
	if count > 1 {
		time.Sleep(50 * time.Millisecond)
		lead.Campaign()
	}
	for lead.Status().Lead != 1 {
		time.Sleep(time.Millisecond)
	}
	var next atomic.Int64
	var cl sync.WaitGroup
	b.ResetTimer()
	for c := range clients {
		cl.Go(func() {
			ch := make(chan struct{}, 1)
			appliers[0].waiters.Store(uint64(c), ch)
			for next.Add(1) <= int64(b.N) {
				data := make([]byte, 300)
				binary.BigEndian.PutUint64(data, uint64(c))
				if err := lead.Propose(data); err != nil {
					b.Error(err)
					return
				}
				<-ch
			}
		})
	}
	cl.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "proposals/s")
	b.ReportMetric(float64(appliers[0].ents.Load())/float64(appliers[0].batches.Load()), "entries/apply")
	b.ReportMetric(float64(net.sent.Load())/float64(b.N), "msgs/op")
	cancel()
	wg.Wait()
}

func BenchmarkPropose(b *testing.B) {
	for _, members := range []int{1, 3} {
		for _, clients := range []int{1, 64, 1000} {
			b.Run(fmt.Sprintf("members=%d/clients=%d", members, clients), func(b *testing.B) {
				benchNodes(b, members, clients)
			})
		}
	}
}
