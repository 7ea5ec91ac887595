package peer_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"theseus/node"
	"theseus/peer"
	"theseus/wal"
)

// machine is the least that raft needs: it remembers what was applied.
type machine struct {
	mu      sync.Mutex
	applied [][]byte
}

func (a *machine) Apply(ents []raftpb.Entry, change func(raftpb.ConfChange) raftpb.ConfState) (int, error) {
	for _, e := range ents {
		if e.Type == raftpb.EntryConfChange {
			var cc raftpb.ConfChange
			if err := cc.Unmarshal(e.Data); err != nil {
				return 0, err
			}
			change(cc)
			continue
		}
		a.mu.Lock()
		a.applied = append(a.applied, e.Data)
		a.mu.Unlock()
	}
	return len(ents), nil
}

func (a *machine) has(s string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(a.applied, func(b []byte) bool { return bytes.Contains(b, []byte(s)) })
}

func (a *machine) ApplySnapshot(raftpb.Snapshot) error { return fmt.Errorf("no snapshot was expected") }
func (a *machine) Flush() error                        { return nil }
func (a *machine) Snapshot(bool) (raftpb.Snapshot, io.ReadCloser, int64, error) {
	return raftpb.Snapshot{}, nil, 0, fmt.Errorf("no snapshots here")
}

// handler joins transport and raft.
type handler struct {
	node *node.Node
	mu   sync.Mutex
	seen map[raftpb.MessageType]int
}

func (h *handler) Process(_ context.Context, m raftpb.Message) error {
	h.mu.Lock()
	h.seen[m.Type]++
	h.mu.Unlock()
	return h.node.Step(m)
}
func (h *handler) IsRemoved(uint64) bool             { return false }
func (h *handler) ReportUnreachable(id uint64)       { h.node.ReportUnreachable(id) }
func (h *handler) ReportSnapshot(id uint64, ok bool) { h.node.ReportSnapshot(id, ok) }
func (h *handler) SaveSnapshotDB(io.Reader, uint64) (int64, error) {
	return 0, fmt.Errorf("no snapshot was expected")
}

func freeAddr(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// memberID and clusterID are those of interop 6.8.
func memberID(url string) uint64 {
	h := sha1.Sum([]byte(url + "etcd-cluster"))
	return binary.BigEndian.Uint64(h[:])
}

func clusterID(ids ...uint64) uint64 {
	slices.Sort(ids)
	var b []byte
	for _, id := range ids {
		b = binary.BigEndian.AppendUint64(b, id)
	}
	h := sha1.Sum(b)
	return binary.BigEndian.Uint64(h[:])
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("no %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// beside starts one real etcd and one member made of node and peer, which are a
// cluster of two.
type beside struct {
	client  string // url of etcd
	theirID uint64
	ourID   uint64
	machine *machine
	handler *handler
	node    *node.Node
	log     *output
	v3beta  bool // the gateway of 3.3
}

// output is what a process says.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func startBeside(t *testing.T, binary string) *beside {
	b := &beside{machine: &machine{}, handler: &handler{seen: map[raftpb.MessageType]int{}}, log: &output{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ourURL, theirURL := "http://"+l.Addr().String(), "http://"+freeAddr(t)
	b.client = "http://" + freeAddr(t)
	b.v3beta = versionOf(binary) == "3.3.0"
	b.ourID, b.theirID = memberID(ourURL), memberID(theirURL)

	tr := peer.New(peer.Options{
		ID: b.ourID, ClusterID: clusterID(b.ourID, b.theirID), LocalURLs: []string{ourURL},
		ServerVersion: func() string { return versionOf(binary) }, Handler: b.handler,
	})
	b.startNode(t, tr, map[uint64]string{b.ourID: ourURL, b.theirID: theirURL})
	srv := &http.Server{Handler: tr.Handler()}
	go func() { _ = srv.Serve(peer.Listener(l)) }()
	t.Cleanup(func() { srv.Close() })
	tr.AddPeer(b.theirID, []string{theirURL})

	cmd := exec.Command(binary, "--name", "theirs", "--data-dir", filepath.Join(t.TempDir(), "etcd"),
		"--listen-peer-urls", theirURL, "--initial-advertise-peer-urls", theirURL,
		"--listen-client-urls", b.client, "--advertise-client-urls", b.client,
		"--initial-cluster", "ours="+ourURL+",theirs="+theirURL)
	cmd.Stdout, cmd.Stderr = b.log, b.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("etcd said:\n%s", b.log.b.String())
		}
	})
	return b
}

// versionOf is the version that we show: that of the binary's minor.
func versionOf(binary string) string { return filepath.Base(filepath.Dir(binary)) + ".0" }

func (b *beside) startNode(t *testing.T, tr *peer.Transport, urls map[uint64]string) {
	w, err := wal.Create(filepath.Join(t.TempDir(), "wal"), wal.Metadata(b.ourID, 1), wal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var peers []raft.Peer
	for _, id := range slices.Sorted(func(yield func(uint64) bool) { _ = yield(b.ourID) && yield(b.theirID) }) {
		name := map[bool]string{true: "ours", false: "theirs"}[id == b.ourID]
		js, err := json.Marshal(peer.Member{ID: id, PeerURLs: []string{urls[id]}, Name: name})
		if err != nil {
			t.Fatal(err)
		}
		peers = append(peers, raft.Peer{ID: id, Context: js})
	}
	b.node, err = node.New(node.Options{ID: b.ourID, WAL: w, Peers: peers, PreVote: true, Applier: b.machine, Transport: tr})
	if err != nil {
		t.Fatal(err)
	}
	b.handler.node = b.node
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.node.Run(ctx) }()
	t.Cleanup(func() {
		tr.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		w.Close()
	})
}

// put writes a key through the real member's HTTP gateway.
func (b *beside) put(key string) error {
	path := "/v3/kv/put"
	if b.v3beta {
		path = "/v3beta/kv/put"
	}
	body, _ := json.Marshal(map[string][]byte{"key": []byte(key), "value": []byte("v")})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, b.client+path, bytes.NewReader(body))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		msg, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("status %d: %s", resp.StatusCode, msg)
	}
	return nil
}

// TestBesideRealEtcd: vote requests, replication in both directions and a handover of
// leadership, with each real etcd that has been built (make peers).
func TestBesideRealEtcd(t *testing.T) {
	binaries, _ := filepath.Glob("../build/peers/*/etcd")
	if len(binaries) == 0 {
		if os.Getenv("THESEUS_REQUIRE_PEERS") != "" {
			t.Fatal("no real etcd under build/peers")
		}
		t.Skip("no real etcd under build/peers: run make peers")
	}
	for _, binary := range binaries {
		t.Run(filepath.Base(filepath.Dir(binary)), func(t *testing.T) {
			b := startBeside(t, binary)
			eventually(t, "leader", func() bool { return b.node.Status().Lead != 0 })
			// Whoever leads, a put at theirs is applied at ours.
			eventually(t, "put", func() bool { return b.put("first") == nil })
			eventually(t, "entry", func() bool { return b.machine.has("first") })
			for _, lead := range []uint64{b.ourID, b.theirID, b.ourID} {
				eventually(t, fmt.Sprintf("leadership of %x", lead), func() bool {
					if b.node.Status().Lead != lead {
						b.node.TransferLeader(lead)
					}
					return b.node.Status().Lead == lead
				})
				key := fmt.Sprintf("under %x", lead)
				if err := b.put(key); err != nil {
					t.Fatalf("put %s: %v", key, err)
				}
				eventually(t, "entry", func() bool { return b.machine.has(key) })
			}
			b.handler.mu.Lock()
			defer b.handler.mu.Unlock()
			votes := b.handler.seen[raftpb.MsgVote] + b.handler.seen[raftpb.MsgPreVote] + b.handler.seen[raftpb.MsgVoteResp]
			if votes == 0 || b.handler.seen[raftpb.MsgApp] == 0 || b.handler.seen[raftpb.MsgAppResp] == 0 || b.handler.seen[raftpb.MsgProp] == 0 {
				t.Errorf("messages received: %v", b.handler.seen)
			}
		})
	}
}
