package peer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"theseus/snap"
	"theseus/version"
)

// Texts that members compare with, or show, as etcd says them.
const (
	textIncompatible    = "incompatible version"
	textClusterMismatch = "cluster ID mismatch"
)

// Handler answers /raft and everything below it.
func (t *Transport) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/raft", t.servePost)
	mux.HandleFunc("/raft/snapshot", t.serveSnapshot)
	mux.HandleFunc("/raft/stream/", t.serveStream)
	mux.HandleFunc("/raft/probing", serveProbe)
	return mux
}

func serveProbe(w http.ResponseWriter, _ *http.Request) {
	_ = json.NewEncoder(w).Encode(health{OK: true, Now: time.Now()}) // the prober tries again
}

// refuse answers a request that gets no further. etcd's texts end with a newline.
func refuse(w http.ResponseWriter, code int, text string) { http.Error(w, text, code) }

// begin runs the checks that all raft requests have in common, in etcd's order.
func (t *Transport) begin(w http.ResponseWriter, r *http.Request, method string) bool {
	if r.Method != method {
		w.Header().Set("Allow", method)
		refuse(w, http.StatusMethodNotAllowed, "Method Not Allowed")
		return false
	}
	w.Header().Set("X-Etcd-Cluster-ID", hexID(t.o.ClusterID))
	if err := t.compatible(r.Header); err != nil {
		t.lg.Debug("refused a request of a peer", zap.String("from", r.Header.Get("X-Server-From")), zap.Error(err))
		refuse(w, http.StatusPreconditionFailed, textIncompatible)
		return false
	}
	if id := r.Header.Get("X-Etcd-Cluster-ID"); id != hexID(t.o.ClusterID) {
		t.lg.Warn("request cluster ID mismatch", zap.String("from", r.Header.Get("X-Server-From")), zap.String("remote-peer-cluster-id", id))
		refuse(w, http.StatusPreconditionFailed, textClusterMismatch)
		return false
	}
	return true
}

// compatible checks the version that a peer shows, and the least it demands. One that
// shows none is of 2.0.
func (t *Transport) compatible(h http.Header) error {
	server, err := headerVersion(h, "X-Server-Version")
	if err != nil {
		return err
	}
	least, err := headerVersion(h, "X-Min-Cluster-Version")
	if err != nil {
		return err
	}
	own, err := version.Parse(t.o.ServerVersion())
	if err != nil {
		return err
	}
	if server.Compare(version.Min) < 0 {
		return fmt.Errorf("its version %v is below %v", server, version.Min)
	}
	if least.Compare(own) > 0 {
		return fmt.Errorf("it demands version %v", least)
	}
	return nil
}

func headerVersion(h http.Header, name string) (version.Version, error) {
	s := h.Get(name)
	if s == "" {
		return version.V(2, 0, 0), nil
	}
	return version.Parse(s)
}

// remember makes a sender that is not known yet reachable, so that this member can be
// caught up before it has learnt of all members.
func (t *Transport) remember(r *http.Request) {
	from, err := strconv.ParseUint(r.Header.Get("X-Server-From"), 16, 64)
	urls := r.Header.Get("X-PeerURLs")
	if err != nil || from == 0 || urls == "" || t.peer(from) != nil || t.o.Handler.IsRemoved(from) {
		return
	}
	t.AddRemote(from, strings.Split(urls, ","))
}

// servePost takes one message.
func (t *Transport) servePost(w http.ResponseWriter, r *http.Request) {
	if !t.begin(w, r, http.MethodPost) {
		return
	}
	t.remember(r)
	b, err := []byte(nil), errFrameSize
	if r.ContentLength <= maxFrameBytes { // what says itself that it is too long is not read
		b, err = readAnnounced(r.Body, r.ContentLength, maxFrameBytes)
	}
	if err != nil {
		t.metrics.receivedFailures.WithLabelValues(t.label(0)).Inc()
		refuse(w, http.StatusBadRequest, "error reading raft message")
		return
	}
	var m raftpb.Message
	if err := m.Unmarshal(b); err != nil {
		t.metrics.receivedFailures.WithLabelValues(t.label(0)).Inc()
		refuse(w, http.StatusBadRequest, "error unmarshalling raft message")
		return
	}
	t.metrics.receivedBytes.WithLabelValues(t.label(m.From)).Add(float64(len(b)))
	dropEmptySnapshot(&m)
	err = errSnapOnStream
	if m.Snapshot == nil {
		err = t.process(w, r, m)
	}
	switch {
	case err == nil:
		w.WriteHeader(http.StatusNoContent)
	case errors.Is(err, errAnswered):
	default:
		t.lg.Debug("cannot process a posted message", zap.Stringer("message-type", m.Type), zap.Error(err))
		refuse(w, http.StatusInternalServerError, "error processing raft message")
		flush(w)
		panic(http.ErrAbortHandler) // as etcd does: the connection goes too
	}
}

// errAnswered says that the answer has been given.
var errAnswered = errors.New("answered")

// process hands a posted message to the member. A status that makes the sender stop is
// given only for a member that is known to have been removed; a message to somebody
// else may come from one that has an outdated address of this member.
func (t *Transport) process(w http.ResponseWriter, r *http.Request, m raftpb.Message) error {
	if m.To != t.o.ID {
		refuse(w, http.StatusPreconditionFailed, "cannot process message to mismatch member")
		return errAnswered
	}
	err := t.o.Handler.Process(t.ctx, m)
	if errors.Is(err, ErrMemberRemoved) && t.o.Handler.IsRemoved(m.From) {
		refuse(w, http.StatusForbidden, ErrMemberRemoved.Error())
		return errAnswered
	}
	if err != nil {
		t.metrics.receivedFailures.WithLabelValues(t.label(m.From)).Inc()
	}
	return err
}

// label is what metrics call a sender. A stranger must not choose labels.
func (t *Transport) label(from uint64) string {
	if t.peer(from) == nil {
		return "0"
	}
	return hexID(from)
}

func flush(w http.ResponseWriter) {
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
}

// firstRead is how much of a body must be there before room is made for all that was
// announced.
const firstRead = 1 << 20

// readAnnounced is readBody for one of a known length, -1 if it is not: it makes room
// once, where growing step by step would leave twice as much behind as garbage.
func readAnnounced(r io.Reader, length, limit int64) ([]byte, error) {
	if length <= firstRead {
		return readBody(r, limit)
	}
	head := make([]byte, firstRead)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	b := make([]byte, length)
	_, err := io.ReadFull(r, b[copy(b, head):])
	return b, err
}

// readBody reads at most limit bytes, as they come.
func readBody(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = errFrameSize
	}
	return b, err
}

// serveSnapshot takes a snapshot message and, behind it, the database.
func (t *Transport) serveSnapshot(w http.ResponseWriter, r *http.Request) {
	if !t.begin(w, r, http.MethodPost) {
		return
	}
	t.remember(r)
	began := time.Now()
	id, _ := strconv.ParseUint(r.Header.Get("X-Server-From"), 16, 64)
	from := t.label(id)
	t.metrics.snapReceiving.WithLabelValues(from).Inc()
	defer t.metrics.snapReceiving.WithLabelValues(from).Dec()
	err := t.takeSnapshot(w, r)
	switch {
	case err == nil:
		t.metrics.snapReceived.WithLabelValues(from).Inc()
		t.metrics.snapReceivingSeconds.WithLabelValues(from).Observe(time.Since(began).Seconds())
		w.WriteHeader(http.StatusNoContent)
	case !errors.Is(err, errAnswered):
		t.lg.Warn("failed to receive a snapshot", zap.String("from", from), zap.Error(err))
		t.metrics.snapReceiveFailed.WithLabelValues(from).Inc()
	}
}

// takeSnapshot answers what it refuses, and returns why.
func (t *Transport) takeSnapshot(w http.ResponseWriter, r *http.Request) error {
	m, err := snap.ReadMessage(r.Body, maxSnapMessage)
	if err != nil {
		refuse(w, http.StatusBadRequest, fmt.Sprintf("failed to decode raft message (%v)", err))
		return err
	}
	if m.Type != raftpb.MsgSnap || m.Snapshot == nil {
		refuse(w, http.StatusBadRequest, "wrong raft message type")
		return fmt.Errorf("message of type %s", m.Type)
	}
	if m.To != t.o.ID {
		refuse(w, http.StatusPreconditionFailed, "cannot process message to mismatch member")
		return fmt.Errorf("a snapshot for %x", m.To)
	}
	index := m.Snapshot.Metadata.Index
	t.lg.Info("receiving database snapshot", zap.String("remote-peer-id", hexID(m.From)), zap.Uint64("snapshot-index", index))
	n, err := t.o.Handler.SaveSnapshotDB(r.Body, index)
	if err != nil {
		refuse(w, http.StatusInternalServerError, fmt.Sprintf("failed to save KV snapshot (%v)", err))
		return fmt.Errorf("save database: %w", err)
	}
	t.metrics.receivedBytes.WithLabelValues(t.label(m.From)).Add(float64(n))
	t.lg.Info("received and saved database snapshot", zap.Uint64("snapshot-index", index), zap.Int64("bytes", n))
	if err := t.process(w, r, m); err != nil {
		if !errors.Is(err, errAnswered) {
			refuse(w, http.StatusInternalServerError, fmt.Sprintf("failed to process raft message (%v)", err))
		}
		return err
	}
	return nil
}

// serveStream gives a peer that dials one the connection to read from.
func (t *Transport) serveStream(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		w.Header().Set("X-Server-Version", t.o.ServerVersion())
	}
	if !t.begin(w, r, http.MethodGet) {
		return
	}
	kind, fromHex, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/raft/stream/"), "/")
	if !ok || (kind != "msgapp" && kind != "message") {
		refuse(w, http.StatusNotFound, "invalid path")
		return
	}
	from, err := strconv.ParseUint(fromHex, 16, 64)
	if err != nil {
		refuse(w, http.StatusNotFound, "invalid from")
		return
	}
	if t.o.Handler.IsRemoved(from) {
		t.lg.Warn("rejected stream from remote peer because it was removed", zap.String("remote-peer-id", hexID(from)))
		refuse(w, http.StatusGone, "removed member")
		return
	}
	t.mu.RLock()
	p := t.peers[from]
	t.mu.RUnlock()
	if p == nil {
		t.remember(r)
		refuse(w, http.StatusNotFound, "error sender not found")
		return
	}
	if to := r.Header.Get("X-Raft-To"); to != hexID(t.o.ID) {
		refuse(w, http.StatusPreconditionFailed, "to field mismatch")
		return
	}
	t.startStream(w, p, kind)
}

// startStream takes the connection over from the HTTP server, because batches are
// written faster than through it.
func (t *Transport) startStream(w http.ResponseWriter, p *peer, kind string) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil { // HTTP/2, which no peer speaks
		refuse(w, http.StatusHTTPVersionNotSupported, "streams need HTTP/1.1")
		return
	}
	head := "HTTP/1.1 200 OK\r\nX-Etcd-Cluster-Id: " + hexID(t.o.ClusterID) + "\r\nX-Server-Version: " + t.o.ServerVersion() +
		"\r\nTransfer-Encoding: chunked\r\n\r\n"
	out := &p.msg
	if kind == "msgapp" {
		out = &p.app
	}
	started := t.goes(func() {
		timed := &timedConn{Conn: conn, write: ioTimeout}
		if _, err := io.WriteString(timed, head); err != nil {
			conn.Close()
			return
		}
		out.serve(conn)
	})
	if !started {
		conn.Close()
	}
}
