package peer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

func goodHeaders(from, to uint64) http.Header {
	h := http.Header{}
	h.Set("X-Server-From", hexID(from))
	h.Set("X-Server-Version", "3.5.33")
	h.Set("X-Min-Cluster-Version", "3.0.0")
	h.Set("X-Etcd-Cluster-ID", hexID(testCluster))
	h.Set("X-PeerURLs", "http://127.0.0.1:1")
	if to != 0 {
		h.Set("X-Raft-To", hexID(to))
	}
	return h
}

// TestAnswersToBadRequests: statuses and texts of interop 8.3 and 8.4, in the order
// of the checks. Above all: 410 and 403 go to removed members only.
func TestAnswersToBadRequests(t *testing.T) {
	a := listen(t, 1, nil)
	a.AddPeer(2, []string{"http://127.0.0.1:1"})
	a.fake.removed[9] = true
	vote := mustMarshal(t, raftpb.Message{Type: raftpb.MsgVote, From: 2, To: 1, Term: 1})
	misled := mustMarshal(t, raftpb.Message{Type: raftpb.MsgVote, From: 2, To: 7, Term: 1})
	fromRemoved := mustMarshal(t, raftpb.Message{Type: raftpb.MsgVote, From: 9, To: 1, Term: 1})
	snapOnly := mustMarshal(t, raftpb.Message{Type: raftpb.MsgSnap, From: 2, To: 1, Term: 1, Snapshot: &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: 1}}})
	sized := func(b []byte) []byte { return append(binary.BigEndian.AppendUint64(nil, uint64(len(b))), b...) }
	set := func(kv ...string) func(http.Header) {
		return func(h http.Header) {
			for i := 0; i < len(kv); i += 2 {
				h.Del(kv[i])
				if kv[i+1] != "" {
					h.Set(kv[i], kv[i+1])
				}
			}
		}
	}
	for _, tc := range []struct {
		name, method, path string
		change             func(http.Header)
		body               []byte
		status             int
		text               string
	}{
		{"good post", "POST", "/raft", nil, vote, 204, ""},
		{"get of a post", "GET", "/raft", nil, nil, 405, "Method Not Allowed"},
		{"post of a stream", "POST", "/raft/stream/msgapp/2", nil, nil, 405, "Method Not Allowed"},
		{"get of a snapshot", "GET", "/raft/snapshot", nil, nil, 405, "Method Not Allowed"},
		{"no version", "POST", "/raft", set("X-Server-Version", ""), vote, 412, "incompatible version"},
		{"old version", "POST", "/raft", set("X-Server-Version", "2.3.8"), vote, 412, "incompatible version"},
		{"version of letters", "POST", "/raft", set("X-Server-Version", "foo"), vote, 412, "incompatible version"},
		{"later version", "POST", "/raft", set("X-Server-Version", "3.99.0"), vote, 204, ""},
		{"demands a later one", "POST", "/raft", set("X-Min-Cluster-Version", "3.99.0"), vote, 412, "incompatible version"},
		{"version before cluster", "GET", "/raft/stream/msgapp/2", set("X-Server-Version", "", "X-Etcd-Cluster-ID", "5"), nil, 412, "incompatible version"},
		{"other cluster", "POST", "/raft", set("X-Etcd-Cluster-ID", "5"), vote, 412, "cluster ID mismatch"},
		{"no cluster", "GET", "/raft/stream/message/2", set("X-Etcd-Cluster-ID", ""), nil, 412, "cluster ID mismatch"},
		{"other cluster, removed", "GET", "/raft/stream/message/9", set("X-Etcd-Cluster-ID", "5"), nil, 412, "cluster ID mismatch"},
		{"unknown stream", "GET", "/raft/stream/msgappv2/2", nil, nil, 404, "invalid path"},
		{"stream of nobody", "GET", "/raft/stream/msgapp", nil, nil, 404, "invalid path"},
		{"id of letters", "GET", "/raft/stream/msgapp/xyz", nil, nil, 404, "invalid from"},
		{"removed", "GET", "/raft/stream/msgapp/9", nil, nil, 410, "removed member"},
		{"unknown sender", "GET", "/raft/stream/msgapp/5", set("X-Server-From", "5"), nil, 404, "error sender not found"},
		{"stream for another", "GET", "/raft/stream/msgapp/2", set("X-Raft-To", "7"), nil, 412, "to field mismatch"},
		{"bytes", "POST", "/raft", nil, []byte{0xff, 0xff}, 400, "error unmarshalling raft message"},
		{"message for another", "POST", "/raft", nil, misled, 412, "cannot process message to mismatch member"},
		{"message of a removed one", "POST", "/raft", nil, fromRemoved, 403, "cannot process message from removed member"},
		{"snapshot without database", "POST", "/raft", nil, snapOnly, 500, "error processing raft message"},
		{"snapshot of a vote", "POST", "/raft/snapshot", nil, sized(vote), 400, "wrong raft message type"},
		{"snapshot of bytes", "POST", "/raft/snapshot", nil, []byte{1}, 400, "failed to decode raft message ("},
		{"huge snapshot message", "POST", "/raft/snapshot", nil, []byte{0, 0, 0, 0, 0xff, 0, 0, 0}, 400, "failed to decode raft message ("},
		{"elsewhere", "GET", "/raft/other", nil, nil, 404, ""},
		{"health", "GET", "/health", nil, nil, 404, ""},
	} {
		req, err := http.NewRequest(tc.method, a.url+tc.path, bytes.NewReader(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = goodHeaders(2, 1)
		if tc.change != nil {
			tc.change(req.Header)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		b, _ := io.ReadAll(resp.Body) // may be cut: the connection is aborted after some errors
		resp.Body.Close()
		if resp.StatusCode != tc.status || !strings.HasPrefix(string(b), tc.text) {
			t.Errorf("%s: status %d, %q", tc.name, resp.StatusCode, b)
		}
		if tc.status != 405 && tc.status != 404 && resp.Header.Get("X-Etcd-Cluster-ID") != hexID(testCluster) {
			t.Errorf("%s: no cluster id", tc.name)
		}
		if tc.status == 405 && resp.Header.Get("Allow") == "" {
			t.Errorf("%s: no Allow", tc.name)
		}
	}
	if a.peer(5) == nil {
		t.Error("an unknown sender was not remembered")
	}
	if a.peer(9) != nil {
		t.Error("a removed sender was remembered")
	}
}

// TestProcessErrors: what raft cannot take is the sender's to send again, but a wrong
// word of removal is not passed on.
func TestProcessErrors(t *testing.T) {
	a := listen(t, 1, nil)
	vote := mustMarshal(t, raftpb.Message{Type: raftpb.MsgVote, From: 2, To: 1, Term: 1})
	for _, answer := range []error{errors.New("busy"), ErrMemberRemoved} {
		a.fake.mu.Lock()
		a.fake.answer = answer
		a.fake.mu.Unlock()
		req, _ := http.NewRequest(http.MethodPost, a.url+"/raft", bytes.NewReader(vote))
		req.Header = goodHeaders(2, 0)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusInternalServerError {
			t.Errorf("%v: status %d", answer, resp.StatusCode)
		}
	}
}

// TestStreamAnswer: the header of a stream, byte by byte (interop A.2).
func TestStreamAnswer(t *testing.T) {
	a := listen(t, 1, nil)
	a.AddPeer(2, []string{"http://127.0.0.1:1"})
	conn, err := net.Dial("tcp", strings.TrimPrefix(a.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /raft/stream/msgapp/2 HTTP/1.1\r\nHost: x\r\nX-Server-From: 2\r\nX-Server-Version: 3.1.20\r\n"+
		"X-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-Id: c1\r\nX-Raft-To: 1\r\nX-Peerurls: http://127.0.0.1:1\r\n\r\n")
	r := bufio.NewReader(conn)
	want := "HTTP/1.1 200 OK\r\nX-Etcd-Cluster-Id: c1\r\nX-Server-Version: 3.7.3\r\nTransfer-Encoding: chunked\r\n\r\n"
	head := make([]byte, len(want))
	if _, err := io.ReadFull(r, head); err != nil || string(head) != want {
		t.Fatalf("%q, %v", head, err)
	}
	waitFor(t, "stream", a.peer(2).app.attached)
	a.Send([]raftpb.Message{{Type: raftpb.MsgApp, From: 1, To: 2, Term: 1}})
	line, err := r.ReadString('\n')
	if err != nil || line != "1d\r\n" {
		t.Errorf("chunk of %q, %v", line, err)
	}
}

func TestProbing(t *testing.T) {
	a, b := listen(t, 1, nil), listen(t, 2, nil)
	resp, err := http.Get(a.url + "/raft/probing")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if !strings.HasPrefix(string(body), `{"OK":true,"Now":"2`) || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		t.Errorf("%s, %s", body, resp.Header.Get("Content-Type"))
	}
	b.AddPeer(1, []string{a.url})
	if drift, err := b.peer(1).probe(); err != nil || drift.Abs() > time.Second {
		t.Errorf("%v, %v", drift, err)
	}
}

// TestStrangersAreFew: who may be remembered without being a member is limited, and
// chooses no labels.
func TestStrangersAreFew(t *testing.T) {
	a := listen(t, 1, nil)
	for id := uint64(100); id < 100+2*maxRemotes; id++ {
		req, _ := http.NewRequest(http.MethodGet, a.url+"/raft/stream/message/"+hexID(id), nil)
		req.Header = goodHeaders(id, 1)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	if n := len(a.remotes); n != maxRemotes {
		t.Errorf("%d remotes", n)
	}
	if l := a.label(999); l != "0" {
		t.Errorf("label %q", l)
	}
}

// hostile serves one answer to every stream that is dialed.
func hostile(t *testing.T, answer func(conn net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					answer(conn)
				}
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

// TestHostilePeers: whatever a peer answers, the member goes on, believes it removed
// only at 410, and dials again.
func TestHostilePeers(t *testing.T) {
	chunked := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for name, answer := range map[string]string{
		"nothing":        "",
		"no http":        "hello\r\n\r\n",
		"not found":      "HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n",
		"forbidden":      "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
		"redirect":       "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
		"end at once":    chunked + "0\r\n\r\n",
		"bad chunk":      chunked + "zz\r\n",
		"bad frame":      chunked + "1\r\n\x07\r\n",
		"endless count":  chunked + "9\r\n\x01\xff\xff\xff\xff\xff\xff\xff\xff\r\n",
		"endless header": "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2<<20),
		"bad version":    "HTTP/1.1 200 OK\r\nX-Server-Version: foo\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n\x07\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			removed := make(chan uint64, 100)
			dials := make(chan struct{}, 1000)
			url := hostile(t, func(conn net.Conn) {
				dials <- struct{}{}
				_, _ = io.WriteString(conn, answer)
			})
			a := listen(t, 1, func(o *Options) { o.OnRemoved = func(by uint64) { removed <- by } })
			a.AddPeer(2, []string{url})
			for range 4 { // both streams, twice
				recv(t, "another dial", dials)
			}
			if len(removed) > 0 {
				t.Error("believes itself removed")
			}
			if len(a.fake.msgs) > 0 {
				t.Errorf("took %+v", <-a.fake.msgs)
			}
		})
	}
}

// TestRedialsAreRateLimited: 100 ms lie between two dials of one stream.
func TestRedialsAreRateLimited(t *testing.T) {
	dials := make(chan time.Time, 1000)
	url := hostile(t, func(net.Conn) { dials <- time.Now() })
	a := listen(t, 1, nil)
	a.AddPeer(2, []string{url})
	first := recv(t, "dial", dials)
	var last time.Time
	for range 7 { // with the first one four of each stream
		last = recv(t, "dial", dials)
	}
	if took := last.Sub(first); took < 2*redialEvery {
		t.Errorf("8 dials of two streams in %v", took)
	}
}

// TestSnapshotsOnStreamsAreDropped: without its database one would be fatal.
func TestSnapshotsOnStreamsAreDropped(t *testing.T) {
	a, b := listen(t, 1, nil), listen(t, 2, nil)
	connect(t, a, b)
	p := a.peer(2)
	p.msg.put(&raftpb.Message{Type: raftpb.MsgSnap, From: 1, To: 2, Term: 1, Snapshot: &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: 1}}})
	p.msg.put(&raftpb.Message{Type: raftpb.MsgVote, From: 1, To: 2, Term: 1})
	if m := b.fake.next(); m.Type != raftpb.MsgVote {
		t.Errorf("%+v", m)
	}
}
