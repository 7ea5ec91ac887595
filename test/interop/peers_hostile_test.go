package interop

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"theseus/test/cluster"
)

// stranger is somebody who talks to a member's peer port.
type stranger struct {
	t       *testing.T
	to      *cluster.Member
	cluster uint64
	cli     *http.Client
}

func newStranger(t *testing.T, to *cluster.Member) *stranger {
	st, err := to.Status(context.Background())
	must(t, err)
	cli := &http.Client{Timeout: 10 * time.Second}
	t.Cleanup(cli.CloseIdleConnections)
	return &stranger{t: t, to: to, cluster: st.Header.ClusterId, cli: cli}
}

// headers of a member that is in order.
func (s *stranger) headers(from uint64) map[string]string {
	return map[string]string{
		"X-Etcd-Cluster-Id": strconv.FormatUint(s.cluster, 16), "X-Server-From": strconv.FormatUint(from, 16),
		"X-Server-Version": "3.7.3", "X-Min-Cluster-Version": "3.0.0", "X-Raft-To": strconv.FormatUint(s.to.ID(), 16),
	}
}

// send returns the status, and the beginning of the body; 0 when the connection was cut.
func (s *stranger) send(method, path string, h map[string]string, body []byte) (int, string) {
	ctx, cancel := within(10 * time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.to.PeerURL()+path, bytes.NewReader(body))
	must(s.t, err)
	for k, v := range h {
		req.Header.Set(k, v)
	}
	resp, err := s.cli.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusOK && strings.HasPrefix(path, "/raft/stream") {
		return resp.StatusCode, "" // it goes on for ever
	}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	return resp.StatusCode, string(b)
}

func with(h map[string]string, key, value string) map[string]string {
	out := map[string]string{}
	for k, v := range h {
		out[k] = v
	}
	out[key] = value
	return out
}

// rss is the resident memory of a process in bytes.
func rss(t *testing.T, m *cluster.Member) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", m.PID()))
	must(t, err)
	pages, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	must(t, err)
	return pages * int64(os.Getpagesize())
}

func goroutines(t *testing.T, m *cluster.Member) int {
	t.Helper()
	body, err := m.HTTP("/metrics")
	must(t, err)
	for line := range strings.Lines(body) {
		if v, ok := strings.CutPrefix(line, "go_goroutines "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
			must(t, err)
			return int(n)
		}
	}
	t.Fatal("no go_goroutines among the metrics")
	return 0
}

const member7 = 0x7777 // an id that nobody has

// TestHostilePeers sends to every peer endpoint of one member of three what no peer
// in order sends. It must answer with an error, go on serving, and not grow; and it
// must never tell a sender that it was removed, since etcd ends itself then (trap 12).
func TestHostilePeers(t *testing.T) {
	c := cluster.New(t, cluster.Options{Size: 3})
	furnish(t, c.Client(), "before")
	one := c.Members[c.Leader()]
	s := newStranger(t, one)
	peer := c.Members[(c.Leader()+1)%3].ID()
	before, size := goroutines(t, one), rss(t, one)

	s.wrongHeaders(peer)
	s.wrongMessages(peer)
	s.randomBytes(peer)
	s.rawBytes()

	if !one.Running() {
		t.Fatalf("the member ended:\n%s", one.LogTail(30))
	}
	furnish(t, c.Client(), "after")
	sameEverywhere(t, c)
	if strings.Contains(one.Log(), "panic") {
		t.Error("a panic in the log")
	}
	must(t, cluster.Eventually(t, func(context.Context) error {
		if now := goroutines(t, one); now > before+30 {
			return fmt.Errorf("%d goroutines, %d before", now, before)
		}
		return nil
	}))
	if now := rss(t, one); now > size+256<<20 {
		t.Errorf("memory has grown from %d to %d MB", size>>20, now>>20)
	}
}

func (s *stranger) expect(what string, got int, body string, want ...int) {
	s.t.Helper()
	for _, w := range want {
		if got == w {
			return
		}
	}
	s.t.Errorf("%s: status %d %q, want %v", what, got, strings.TrimSpace(body), want)
}

// streams are where a peer's connections go; posts are where messages go.
var (
	streamPaths = []string{"/raft/stream/msgapp/", "/raft/stream/message/"}
	postPaths   = []string{"/raft", "/raft/snapshot"}
)

func (s *stranger) wrongHeaders(peer uint64) {
	good := s.headers(peer)
	msg, err := (&raftpb.Message{Type: raftpb.MsgHeartbeat, From: peer, To: s.to.ID()}).Marshal()
	must(s.t, err)
	for _, tt := range []struct {
		what   string
		h      map[string]string
		status int
	}{
		{"another cluster", with(good, "X-Etcd-Cluster-Id", "1"), 412},
		{"a cluster id that is none", with(good, "X-Etcd-Cluster-Id", "zz"), 412},
		{"version 2.0", with(good, "X-Server-Version", "2.0.0"), 412},
		{"no version", with(good, "X-Server-Version", ""), 412},
		{"demands version 4", with(good, "X-Min-Cluster-Version", "4.0.0"), 412},
		{"nothing", nil, 412},
	} {
		for _, p := range postPaths {
			got, body := s.send("POST", p, tt.h, msg)
			s.expect("POST "+p+" "+tt.what, got, body, tt.status)
		}
		for _, p := range streamPaths {
			got, body := s.send("GET", p+strconv.FormatUint(peer, 16), tt.h, nil)
			s.expect("GET "+p+" "+tt.what, got, body, tt.status)
		}
	}
	for _, v := range []string{"foo", "3.7.x", strings.Repeat("9", 4000) + ".1.1", "-1.0.0"} {
		for _, p := range postPaths { // etcd cuts the connection here
			got, body := s.send("POST", p, with(good, "X-Server-Version", v), msg)
			s.expect("POST "+p+" version "+v[:3], got, body, 0, 400, 412)
		}
	}
	for _, p := range streamPaths {
		got, body := s.send("GET", p+"zz", good, nil)
		s.expect("stream from an id that is none", got, body, 404)
		got, body = s.send("GET", p+strconv.FormatUint(member7, 16), s.headers(member7), nil)
		s.expect("stream from an unknown member", got, body, 404)
		got, body = s.send("GET", p+strconv.FormatUint(peer, 16), with(good, "X-Raft-To", "1"), nil)
		s.expect("stream to another member", got, body, 412)
		got, body = s.send("POST", p+strconv.FormatUint(peer, 16), good, nil)
		s.expect("POST to a stream", got, body, 405)
	}
	got, body := s.send("GET", "/raft/stream/nonsense/"+strconv.FormatUint(peer, 16), good, nil)
	s.expect("a stream of another kind", got, body, 404)
	for _, p := range postPaths {
		got, body := s.send("GET", p, good, nil)
		s.expect("GET "+p, got, body, 405)
	}
}

// framed is the body of POST /raft/snapshot.
func framed(m raftpb.Message, db []byte) []byte {
	b, _ := m.Marshal()
	return append(append(binary.BigEndian.AppendUint64(nil, uint64(len(b))), b...), db...)
}

func (s *stranger) wrongMessages(peer uint64) {
	good, self := s.headers(peer), s.to.ID()
	post := func(what string, m raftpb.Message, want ...int) {
		s.t.Helper()
		b, err := m.Marshal()
		must(s.t, err)
		got, body := s.send("POST", "/raft", good, b)
		s.expect(what, got, body, want...)
	}
	// What only raft itself makes must not come from outside; 204 means that it was
	// taken and dropped.
	for kind := range raftpb.MessageType_name {
		k := raftpb.MessageType(kind)
		if k == raftpb.MsgSnap || k == raftpb.MsgTimeoutNow {
			continue
		}
		post("a "+k.String()+" of an old term", raftpb.Message{Type: k, From: peer, To: self, Term: 1}, 204, 400, 500, 0)
		post("a "+k.String()+" of an unknown member", raftpb.Message{Type: k, From: member7, To: self, Term: 1}, 204, 400, 500, 0)
	}
	post("a message without a kind", raftpb.Message{Type: 999, From: peer, To: self}, 204, 400, 500, 0)
	// etcd says 403 here, which ends a sender that is etcd.
	post("a message to another member", raftpb.Message{Type: raftpb.MsgHeartbeat, From: peer, To: 5}, 412)
	for _, m := range []raftpb.Message{
		{Type: raftpb.MsgSnap, From: peer, To: self, Term: 1, Snapshot: &raftpb.Snapshot{}},
		{Type: raftpb.MsgSnap, From: peer, To: self, Term: 1},
		{Type: raftpb.MsgHeartbeat, From: peer, To: self, Term: 1},
		{Type: raftpb.MsgSnap, From: peer, To: self, Term: 1, Snapshot: &raftpb.Snapshot{Data: []byte("{"), Metadata: raftpb.SnapshotMetadata{Index: 1, Term: 1}}},
	} {
		got, body := s.send("POST", "/raft/snapshot", good, framed(m, []byte("no database")))
		s.expect("a snapshot that is none: "+m.Type.String(), got, body, 204, 400, 405, 500, 0)
		whole := framed(m, nil)
		got, body = s.send("POST", "/raft/snapshot", good, whole[:len(whole)-1])
		s.expect("a snapshot cut short", got, body, 400, 500, 0)
	}
	huge := binary.BigEndian.AppendUint64(nil, 1<<62)
	got, body := s.send("POST", "/raft/snapshot", good, append(huge, "x"...))
	s.expect("a snapshot message of 4 EiB", got, body, 400, 413, 500, 0)
}

func (s *stranger) randomBytes(peer uint64) {
	rnd := rand.New(rand.NewPCG(1, 2))
	good := s.headers(peer)
	paths := []string{"/raft", "/raft/snapshot", "/leases", "/leases/internal", "/members/promote/1", "/members/promote/" + strings.Repeat("9", 3000),
		"/members/hashkv", "/members", "/version", "/downgrade/enabled", "/raft/probing", "/raft/stream/msgapp/", "/nothing"}
	for n := range 400 {
		body := make([]byte, 1<<rnd.IntN(12))
		for i := range body {
			body[i] = byte(rnd.Uint32())
		}
		path := paths[n%len(paths)]
		for _, method := range []string{"POST", "GET", "PUT"} {
			got, text := s.send(method, path, good, body)
			if got == http.StatusGone || got == http.StatusForbidden && path != "/members/promote/1" {
				s.t.Errorf("%s %s: %d %q to a live member", method, path, got, text)
			}
			if !s.to.Running() {
				s.t.Fatalf("%s %s with %d random bytes ended the member:\n%s", method, path, len(body), s.to.LogTail(30))
			}
		}
	}
	big := make([]byte, 128<<20)
	for _, path := range []string{"/raft", "/leases", "/leases/internal", "/members/promote/1"} {
		got, text := s.send("POST", path, good, big)
		s.expect("128 MiB of zeros to "+path, got, text, 400, 404, 408, 413, 500, 0)
	}
}

// rawBytes is what is not even HTTP, and connections that say nothing.
func (s *stranger) rawBytes() {
	addr := strings.TrimPrefix(s.to.PeerURL(), "http://")
	var idle []net.Conn
	for i := range 100 {
		conn, err := net.Dial("tcp", addr)
		must(s.t, err)
		switch i % 4 {
		case 0:
			_, _ = conn.Write([]byte("\x16\x03\x01\x00\xff\x00"))
		case 1:
			_, _ = conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff"))
		case 2:
			_, _ = conn.Write([]byte("POST /raft HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc"))
		}
		idle = append(idle, conn)
	}
	for _, conn := range idle {
		_ = conn.Close()
	}
}

// TestStreamGarbage is a peer that is let in, and then sends what is no message; etcd
// dials the member, and so the member dials a stranger that calls itself a peer.
func TestStreamGarbage(t *testing.T) {
	c := cluster.New(t, cluster.Options{Size: 3})
	furnish(t, c.Client(), "before")
	dead := c.Members[2]
	dead.Stop()
	st, err := c.Members[0].Status(context.Background())
	must(t, err)
	l, err := net.Listen("tcp", strings.TrimPrefix(dead.PeerURL(), "http://"))
	must(t, err)
	rnd := rand.New(rand.NewPCG(3, 4))
	answers := make(chan int, 1000)
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		garbage := make([]byte, 1+rnd.IntN(2000))
		for i := range garbage {
			garbage[i] = byte(rnd.Uint32())
		}
		n := rnd.IntN(6)
		w.Header().Set("X-Etcd-Cluster-Id", strconv.FormatUint(st.Header.ClusterId, 16))
		w.Header().Set("X-Server-Version", []string{"3.7.3", "3.7.3", "3.7.3", "foo", "", "9999999999999999999.0.0"}[n])
		switch rnd.IntN(5) {
		case 0: // a frame of 2^62 bytes
			garbage = binary.BigEndian.AppendUint64(nil, 1<<62)
		case 1:
			garbage = append(binary.BigEndian.AppendUint64(nil, 64<<20), garbage...)
		case 2: // a msgapp frame that has no end
			garbage = append([]byte{1}, binary.BigEndian.AppendUint64(nil, 1<<60)...)
		case 3:
			w.WriteHeader([]int{200, 404, 412, 500, 301}[rnd.IntN(5)])
		}
		_, _ = w.Write(garbage)
		select {
		case answers <- n:
		default:
		}
	})}
	go func() { _ = srv.Serve(l) }()
	for range 60 {
		select {
		case <-answers:
		case <-time.After(20 * time.Second):
			t.Fatal("the members do not dial any more")
		}
	}
	_ = srv.Close()
	for _, m := range c.Members[:2] {
		if !m.Running() {
			t.Fatalf("%s ended:\n%s", m.Name, m.LogTail(30))
		}
	}
	furnish(t, c.Client(0, 1), "during")
	dead.Start()
	dead.WaitHealthy()
	sameEverywhere(t, c)
}
