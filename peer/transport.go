package peer

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// Transport sends raft's messages to the other members and takes theirs. Its methods
// may be called from any goroutine.
type Transport struct {
	o       Options
	metrics *metrics
	lg      *zap.Logger

	ctx    context.Context // of everything that runs; ended by Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	streams, posts, snaps *http.Transport
	removed               sync.Once
	localURLs             string // as the header takes them

	mu     sync.RWMutex // guards what follows, and wg.Add against Close
	closed bool
	peers  map[uint64]*peer
	// remotes are members known from their own requests, or from the members that
	// were asked before joining; they can only be posted to.
	remotes map[uint64]*peer
}

// New makes a transport without peers.
func New(o Options) *Transport {
	o.setDefaults()
	t := &Transport{
		o: o, metrics: newMetrics(o.Registerer, o.ID), lg: o.Logger.With(zap.String("local-member-id", hexID(o.ID))),
		streams: o.roundTripper(ioTimeout, ioTimeout),
		posts:   o.roundTripper(0, 0),
		snaps:   o.roundTripper(0, snapshotStall),
		peers:   map[uint64]*peer{}, remotes: map[uint64]*peer{},
		localURLs: joinURLs(o.LocalURLs),
	}
	t.snaps.ResponseHeaderTimeout = snapshotAnswer
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// goes runs fn on a goroutine that Close waits for; not any more once it is closing.
func (t *Transport) goes(fn func()) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.closed {
		return false
	}
	t.wg.Go(fn)
	return true
}

// peer finds a member, or one that is known only as a remote.
func (t *Transport) peer(id uint64) *peer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if p := t.peers[id]; p != nil {
		return p
	}
	return t.remotes[id]
}

// Send sends each message to the member it names; one that cannot be queued is
// dropped and the member reported unreachable. It never blocks.
func (t *Transport) Send(msgs []raftpb.Message) {
	for i := range msgs {
		m := &msgs[i]
		if m.To == 0 {
			continue
		}
		p := t.peer(m.To)
		if p == nil {
			t.lg.Debug("dropped a message to an unknown peer", zap.Stringer("type", m.Type), zap.String("to", hexID(m.To)))
			continue
		}
		p.send(m)
	}
}

// SendSnapshot streams a snapshot and its database of size bytes, closes db, and
// reports the end to the Handler. It does not block.
func (t *Transport) SendSnapshot(m raftpb.Message, db io.ReadCloser, size int64) {
	p := t.peer(m.To)
	if p == nil || !t.goes(func() { p.sendSnapshot(m, db, size) }) {
		db.Close()
		t.o.Handler.ReportSnapshot(m.To, false)
	}
}

// AddPeer begins to exchange messages with a member. It does nothing for this
// member itself and for a member that is there already.
func (t *Transport) AddPeer(id uint64, urls []string) { t.add(id, urls, false) }

// AddRemote makes a member reachable that is not, or not yet, in the membership.
func (t *Transport) AddRemote(id uint64, urls []string) { t.add(id, urls, true) }

func (t *Transport) add(id uint64, in []string, remote bool) {
	list, err := parseURLs(in)
	if err != nil {
		// A member without urls that can be dialed can still dial us.
		t.lg.Warn("peer has no usable urls", zap.String("remote-peer-id", hexID(id)), zap.Error(err))
		if remote {
			return
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || id == t.o.ID || t.peers[id] != nil {
		return
	}
	if remote {
		if t.remotes[id] != nil || len(t.remotes) >= maxRemotes {
			return
		}
		t.remotes[id] = t.newPeer(id, list, true)
		t.lg.Info("added new remote peer", zap.String("remote-peer-id", hexID(id)), zap.Strings("remote-peer-urls", in))
		return
	}
	if r := t.remotes[id]; r != nil { // goes on with what is queued for it
		delete(t.remotes, id)
		r.urls.set(list)
		r.listen()
		t.peers[id] = r
	} else {
		t.peers[id] = t.newPeer(id, list, false)
	}
	t.lg.Info("added remote peer", zap.String("remote-peer-id", hexID(id)), zap.Strings("remote-peer-urls", in))
}

// RemovePeer ends the exchange with a member; messages to it are dropped.
func (t *Transport) RemovePeer(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.remove(id)
}

func (t *Transport) remove(id uint64) {
	for _, from := range []map[uint64]*peer{t.peers, t.remotes} {
		if p := from[id]; p != nil {
			delete(from, id)
			p.stop()
			t.lg.Info("removed remote peer", zap.String("removed-remote-peer-id", hexID(id)))
		}
	}
	t.metrics.forget(id)
}

// RemoveAll does so for every member: before those of a snapshot are added.
func (t *Transport) RemoveAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id := range t.peers {
		t.remove(id)
	}
}

// UpdatePeer replaces a member's urls.
func (t *Transport) UpdatePeer(id uint64, in []string) {
	list, err := parseURLs(in)
	p := t.peer(id)
	if err != nil || p == nil {
		t.lg.Warn("cannot update the urls of a peer", zap.String("remote-peer-id", hexID(id)), zap.Error(err))
		return
	}
	p.urls.set(list)
	t.lg.Info("updated remote peer", zap.String("remote-peer-id", hexID(id)), zap.Strings("updated-remote-peer-urls", in))
}

// ActiveSince is when the exchange with a member began to work, zero if it does not.
func (t *Transport) ActiveSince(id uint64) time.Time {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if p := t.peers[id]; p != nil {
		return p.status.activeSince()
	}
	return time.Time{}
}

// ActivePeers is the number of peers that can be talked to now.
func (t *Transport) ActivePeers() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	n := 0
	for _, p := range t.peers {
		if !p.status.activeSince().IsZero() {
			n++
		}
	}
	return n
}

// Close ends all connections, incoming ones too, and waits for all goroutines.
func (t *Transport) Close() {
	t.mu.Lock()
	t.closed = true
	for _, p := range t.peers {
		p.stop()
	}
	for _, p := range t.remotes {
		p.stop()
	}
	t.mu.Unlock()
	t.cancel()
	t.wg.Wait()
	for _, rt := range []*http.Transport{t.streams, t.posts, t.snaps} {
		rt.CloseIdleConnections()
	}
}

// isRemoved is told by a peer: this member has been removed from the cluster for ever.
func (t *Transport) isRemoved(by uint64) {
	t.removed.Do(func() {
		t.lg.Error("the member has been permanently removed from the cluster", zap.String("remote-peer-id", hexID(by)))
		t.o.OnRemoved(by)
	})
}

// peer is one other member.
type peer struct {
	t       *Transport
	id      uint64
	lg      *zap.Logger
	metrics *peerMetrics
	status  status
	urls    urls

	ctx    context.Context
	cancel context.CancelFunc

	app, msg outgoing
	queue    chan raftpb.Message // to be posted
	dropped  atomic.Int64        // since the last line about it
}

// newPeer starts a peer's goroutines. The caller holds t.mu, and t is not closed.
func (t *Transport) newPeer(id uint64, list []string, remote bool) *peer {
	p := &peer{
		t: t, id: id, metrics: t.metrics.of(id), queue: make(chan raftpb.Message, pipelineQueue),
		lg: t.lg.With(zap.String("remote-peer-id", hexID(id))),
	}
	p.status = status{lg: p.lg, metrics: p.metrics}
	p.urls.list = list
	p.ctx, p.cancel = context.WithCancel(t.ctx)
	p.app.init(p, "stream MsgApp v2", func() encoder { return &appEncoder{} })
	p.msg.init(p, "stream Message", func() encoder { return messageEncoder{} })
	for range pipelinePosts {
		t.wg.Go(p.postLoop)
	}
	if !remote {
		p.listen()
	}
	return p
}

// listen begins what a remote does without: streams from the member, and the probe.
// The caller holds t.mu, and t is not closed.
func (p *peer) listen() {
	p.t.wg.Go(func() { p.readLoop(&appStream) })
	p.t.wg.Go(func() { p.readLoop(&messageStream) })
	p.t.wg.Go(p.probeLoop)
}

// stop ends the peer's goroutines and connections; it does not wait.
func (p *peer) stop() {
	p.cancel()
	p.app.close()
	p.msg.close()
}

// send queues m where it belongs: MsgApp on its stream, the rest on the other, and
// what has no stream is posted.
func (p *peer) send(m *raftpb.Message) {
	if m.Type == raftpb.MsgApp {
		if attached, queued := p.app.put(m); queued {
			return
		} else if attached {
			p.drop(m)
			return
		}
	}
	if m.Type != raftpb.MsgSnap {
		if attached, queued := p.msg.put(m); queued {
			return
		} else if attached {
			p.drop(m)
			return
		}
	}
	select {
	case p.queue <- *m:
	default:
		p.drop(m)
	}
}

// drop gives a message up because its queue is full.
func (p *peer) drop(m *raftpb.Message) {
	if p.dropped.Add(1)%streamQueue == 1 {
		p.lg.Warn("dropped internal Raft message since sending buffer is full", zap.Stringer("message-type", m.Type))
	}
	p.lost(m)
}

// lost tells raft that a message did not get there.
func (p *peer) lost(m *raftpb.Message) {
	p.metrics.sentFailures.Inc()
	p.t.o.Handler.ReportUnreachable(p.id)
	if m.Type == raftpb.MsgSnap {
		p.t.o.Handler.ReportSnapshot(p.id, false)
	}
}

// wait returns after d, or false when the peer ends.
func (p *peer) wait(d time.Duration) bool {
	if d <= 0 {
		return p.ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.ctx.Done():
		return false
	}
}

// request makes a request of the peer with the headers of every raft request.
func (p *peer) request(ctx context.Context, method, base, path string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, base+path, body)
	if err != nil {
		return nil, fmt.Errorf("make request to %s: %w", base, err)
	}
	h := req.Header
	h.Set("X-Server-From", hexID(p.t.o.ID))
	h.Set("X-Server-Version", p.t.o.ServerVersion())
	h.Set("X-Min-Cluster-Version", minClusterVer)
	h.Set("X-Etcd-Cluster-ID", hexID(p.t.o.ClusterID))
	h.Set("X-PeerURLs", p.t.localURLs)
	return req, nil
}

func joinURLs(in []string) string {
	in = slices.Clone(in)
	slices.Sort(in)
	s := ""
	for i, u := range in {
		if i > 0 {
			s += ","
		}
		s += u
	}
	return s
}
