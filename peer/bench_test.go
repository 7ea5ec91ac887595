package peer_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"theseus/node"
	"theseus/peer"
	"theseus/wal"
)

// counter is an Applier that wakes the proposer of an entry.
type counter struct {
	machine
	waiters sync.Map
}

func (a *counter) Apply(ents []raftpb.Entry, change func(raftpb.ConfChange) raftpb.ConfState) (int, error) {
	for _, e := range ents {
		if e.Type == raftpb.EntryConfChange {
			var cc raftpb.ConfChange
			if err := cc.Unmarshal(e.Data); err != nil {
				return 0, err
			}
			change(cc)
		} else if len(e.Data) >= 8 {
			if ch, ok := a.waiters.Load(binary.BigEndian.Uint64(e.Data)); ok {
				ch.(chan struct{}) <- struct{}{}
			}
		}
	}
	return len(ents), nil
}

func (a *counter) Snapshot(bool) (raftpb.Snapshot, io.ReadCloser, int64, error) {
	return raftpb.Snapshot{}, nil, 0, fmt.Errorf("none")
}

// BenchmarkThreeMembers is the cost of consensus alone: three members of node and
// peer over loopback, on a real disk.
func BenchmarkThreeMembers(b *testing.B) {
	for _, clients := range []int{1, 64, 1000} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) { benchThree(b, clients) })
	}
}

func benchThree(b *testing.B, clients int) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var nodes []*node.Node
	var apps []*counter
	var peers []raft.Peer
	var listeners []net.Listener
	for id := range uint64(3) {
		peers = append(peers, raft.Peer{ID: id + 1})
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		listeners = append(listeners, l)
	}
	for i := range 3 {
		id := uint64(i + 1)
		w, err := wal.Create(filepath.Join(b.TempDir(), "wal"), nil, wal.Options{})
		if err != nil {
			b.Fatal(err)
		}
		h := &handler{seen: map[raftpb.MessageType]int{}}
		tr := peer.New(peer.Options{ID: id, ClusterID: 1, ServerVersion: func() string { return "3.7.3" }, Handler: h})
		a := &counter{}
		n, err := node.New(node.Options{ID: id, WAL: w, Peers: peers, Applier: a, Transport: tr, PreVote: true, SnapshotCount: 1 << 40})
		if err != nil {
			b.Fatal(err)
		}
		h.node = n
		nodes, apps = append(nodes, n), append(apps, a)
		srv := &http.Server{Handler: tr.Handler()}
		go func() { _ = srv.Serve(peer.Listener(listeners[i])) }()
		for j := range 3 {
			tr.AddPeer(uint64(j+1), []string{"http://" + listeners[j].Addr().String()})
		}
		wg.Go(func() {
			if err := n.Run(ctx); err != nil {
				b.Error(err)
			}
			tr.Close()
			srv.Close()
			w.Close()
		})
	}
	for nodes[0].Status().Lead != 1 {
		nodes[0].Campaign()
		time.Sleep(50 * time.Millisecond)
	}
	b.ResetTimer()
	load(b, nodes[0], apps[0], clients)
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "proposals/s")
	cancel()
	wg.Wait()
}

func load(b *testing.B, n *node.Node, a *counter, clients int) {
	var next atomic.Int64
	var cl sync.WaitGroup
	for c := range clients {
		cl.Go(func() {
			ch := make(chan struct{}, 1)
			a.waiters.Store(uint64(c), ch)
			for next.Add(1) <= int64(b.N) {
				data := make([]byte, 300)
				binary.BigEndian.PutUint64(data, uint64(c))
				if err := n.Propose(data); err != nil {
					b.Error(err)
					return
				}
				<-ch
			}
		})
	}
	cl.Wait()
}
