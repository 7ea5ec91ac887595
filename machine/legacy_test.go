package machine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/raft/v3/raftpb"

	"theseus/api"
	"theseus/internal/vfs"
	"theseus/snap"
	"theseus/test/cluster"
	"theseus/wal"
)

// v2Request sends one random request of the v2 API.
func v2Request(t *testing.T, rnd *rand.Rand, base string) {
	t.Helper()
	paths := []string{"/a", "/b", "/dir", "/dir/x", "/dir/y", "/dir/sub/z", "/a/under-a-file", "/queue", "/ttl"}
	path := paths[rnd.Intn(len(paths))]
	form := url.Values{}
	method := http.MethodPut
	switch rnd.Intn(8) {
	case 0:
		method = http.MethodPost
		form.Set("value", "queued")
	case 1, 2:
		method = http.MethodDelete
		form.Set([]string{"recursive", "dir", "prevValue"}[rnd.Intn(3)], "true")
	case 3:
		form.Set("dir", "true")
		if rnd.Intn(2) == 0 {
			form.Set("prevExist", "true")
		}
	case 4:
		form.Set("value", fmt.Sprint(rnd.Intn(3)))
		form.Set("prevExist", []string{"true", "false"}[rnd.Intn(2)])
	case 5:
		form.Set("value", fmt.Sprint(rnd.Intn(3)))
		form.Set("prevValue", fmt.Sprint(rnd.Intn(3)))
	case 6:
		form.Set("value", "mortal")
		form.Set("ttl", []string{"1", "1000", ""}[rnd.Intn(3)])
		if rnd.Intn(3) == 0 {
			form.Del("value")
			form.Set("refresh", "true")
			form.Set("prevExist", "true")
		}
	default:
		form.Set("value", fmt.Sprint(rnd.Intn(3)))
	}
	target := base + "/v2/keys" + path
	var body io.Reader
	if method == http.MethodDelete {
		target += "?" + form.Encode()
	} else {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequest(method, target, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
}

// oldDirectory lets a real member work a while and returns its directory.
func oldDirectory(t *testing.T, minor string) string {
	args := []string{"--snapshot-count=40"}
	if minor != "3.3" {
		args = append(args, "--enable-v2")
	}
	c := cluster.New(t, cluster.Options{Binary: cluster.Etcd(t, minor), Args: args})
	cli := c.Client()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	rnd := rand.New(rand.NewSource(5))
	for i := range 250 {
		v2Request(t, rnd, c.Members[0].ClientURL())
		_, err := cli.Put(ctx, fmt.Sprintf("k%d", i%7), fmt.Sprint(i))
		must(err)
		if i == 180 {
			time.Sleep(2 * time.Second) // real time: keys with a TTL end by the member's own clock
		}
		if i == 120 && minor != "3.3" {
			added, err := cli.MemberAddAsLearner(ctx, []string{"http://127.0.0.1:1"})
			must(err)
			_, err = cli.MemberUpdate(ctx, added.Member.ID, []string{"http://127.0.0.1:2"})
			must(err)
			_, err = cli.MemberRemove(ctx, added.Member.ID)
			must(err)
			_, err = cli.MemberAddAsLearner(ctx, []string{"http://127.0.0.1:3"})
			must(err)
		}
	}
	lease, err := cli.Grant(ctx, 1000)
	must(err)
	_, err = cli.Put(ctx, "leased", "x", clientv3.WithLease(lease.ID))
	must(err)
	_, err = cli.UserAdd(ctx, "u", "p")
	must(err)
	_, err = cli.Compact(ctx, 50)
	must(err)
	c.Members[0].Stop()
	return c.Members[0].Dir
}

// log reads everything that is committed, and the snapshots.
func readDirectory(t *testing.T, dir string) (committed []raftpb.Entry, snaps []*raftpb.Snapshot) {
	t.Helper()
	contents, err := wal.Read(filepath.Join(dir, "member", "wal"), wal.Snapshot{}, wal.Options{FS: vfs.OS})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range contents.Entries {
		if e.Index <= contents.State.Commit {
			committed = append(committed, e)
		}
	}
	d, err := snap.Open(vfs.OS, filepath.Join(dir, "member", "snap"))
	if err != nil {
		t.Fatal(err)
	}
	ids, err := d.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		s, err := d.Load(id)
		if err != nil {
			t.Fatal(err)
		}
		snaps = append([]*raftpb.Snapshot{s}, snaps...)
	}
	return committed, snaps
}

// node is one path of a v2 store, as its JSON has it.
type node struct {
	CreatedIndex, ModifiedIndex uint64
	ExpireTime                  time.Time
	Value                       string
	Children                    map[string]node
}

func parseStore(t *testing.T, data []byte) (root node, index uint64) {
	t.Helper()
	var s struct {
		Root         node
		CurrentIndex uint64
	}
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	return s.Root, s.CurrentIndex
}

// values flattens a subtree to path = value; the membership is compared so, since
// its indexes mean nothing.
func values(prefix string, n node, out map[string]string) map[string]string {
	if n.Children == nil {
		out[prefix] = n.Value
	}
	for name, child := range n.Children {
		values(prefix+"/"+name, child, out)
	}
	return out
}

// TestOldDirectories applies the whole log of a real member of an old version and
// compares with each snapshot that it made on the way, v2 keys and their indexes too;
// then opens its database as it lies, with its newest snapshot.
func TestOldDirectories(t *testing.T) {
	for _, minor := range []string{"3.3", "3.4", "3.5"} {
		t.Run(minor, func(t *testing.T) {
			t.Parallel()
			dir := oldDirectory(t, minor)
			log, snaps := readDirectory(t, dir)
			if len(snaps) < 3 {
				t.Fatalf("only %d snapshots", len(snaps))
			}
			r := newRig(t, Options{})
			next := 0
			for _, s := range snaps {
				for ; next < len(log) && log[next].Index <= s.Metadata.Index; next++ {
					res := r.apply(false, log[next])[0]
					if res.Fatal != nil {
						t.Fatal(res.Fatal)
					}
					var q api.LegacyRequest
					if log[next].Type == raftpb.EntryNormal && q.UnmarshalEntry(log[next].Data) == nil && q.Method != "QGET" {
						t.Logf("%d: %+v: %v, v2 index %d", log[next].Index, q, res.Err, r.m.Members().V2().Index())
					}
				}
				compareStores(t, s, r.m.SnapshotData())
			}
			for _, e := range log[next:] {
				r.apply(false, e)
			}
			continueDirectory(t, dir, log, snaps, r)
		})
	}
}

func compareStores(t *testing.T, s *raftpb.Snapshot, ours []byte) {
	t.Helper()
	theirRoot, theirIndex := parseStore(t, s.Data)
	ourRoot, ourIndex := parseStore(t, ours)
	if theirIndex != ourIndex {
		t.Errorf("snapshot %d: v2 index %d, ours %d", s.Metadata.Index, theirIndex, ourIndex)
	}
	byTime := cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })
	if d := cmp.Diff(theirRoot.Children["1"], ourRoot.Children["1"], byTime); d != "" {
		t.Fatalf("snapshot %d: v2 keys (-etcd +ours):\n%s", s.Metadata.Index, d)
	}
	want := values("", theirRoot.Children["0"], map[string]string{})
	got := values("", ourRoot.Children["0"], map[string]string{})
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("snapshot %d: membership (-etcd +ours):\n%s", s.Metadata.Index, d)
	}
}

// continueDirectory opens a copy of the database with the newest snapshot beside it,
// replays what follows, goes on with one more entry, and compares with the machine
// that applied everything.
func continueDirectory(t *testing.T, dir string, log []raftpb.Entry, snaps []*raftpb.Snapshot, whole *rig) {
	t.Helper()
	newest := snaps[len(snaps)-1]
	r := &rig{t: t, path: filepath.Join(t.TempDir(), "db"), o: whole.o}
	data, err := os.ReadFile(filepath.Join(dir, "member", "snap", "db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	r.o.V2, r.o.V2Index = newest.Data, newest.Metadata.Index
	r.conf = newest.Metadata.ConfState
	r.open()
	t.Cleanup(r.close)
	if from := r.m.ReplayFrom(); from != newest.Metadata.Index {
		t.Fatalf("replay from %d, want the snapshot's %d", from, newest.Metadata.Index)
	}
	for _, e := range log {
		if e.Index > r.m.ReplayFrom() {
			if res := r.apply(false, e)[0]; res.Fatal != nil {
				t.Fatal(res.Fatal)
			}
		}
	}
	last := raftpb.Entry{Index: log[len(log)-1].Index + 1, Term: log[len(log)-1].Term}
	r.apply(false, last)
	whole.apply(false, last)
	equalBytes(t, "snapshots of the directory and of the whole log", whole.m.SnapshotData(), r.m.SnapshotData())
	a, err := r.m.KV().HashKV(0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := whole.m.KV().HashKV(0)
	if err != nil {
		t.Fatal(err)
	}
	if a.Hash != b.Hash || a.Revision != b.Revision {
		t.Errorf("hash %08x at %d, whole log %08x at %d", a.Hash, a.Revision, b.Hash, b.Revision)
	}
	if got, want := withoutLocal(r.dump()), withoutLocal(whole.dump()); got != want {
		t.Errorf("buckets (-whole +directory):\n%s", cmp.Diff(want, got))
	}
}

// withoutLocal drops what members may differ in: the keys' records, which compaction
// removes at its own pace, the compaction's marks, hashes of passwords, and what the
// layout of an old directory holds (3.5 writes a term, raft's part is ours).
func withoutLocal(dump string) string {
	var out bytes.Buffer
	for _, line := range strings.SplitAfter(dump, "\n") {
		if !strings.HasPrefix(line, "key ") && !strings.Contains(line, "CompactRev") && !strings.HasPrefix(line, "authUsers ") && !strings.Contains(line, "confState") {
			out.WriteString(line)
		}
	}
	return out.String()
}
