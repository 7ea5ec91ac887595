package wal

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"

	"theseus/internal/vfs"
	"theseus/snap"
)

// A real member that a test starts, to read what it wrote and to let it read
// what we wrote. It listens on loopback only.
type realMember struct {
	t         *testing.T
	dir       string
	binary    string
	client    string // URL
	peer      string
	api       string // path of the JSON API
	keys      []string
	doubtful  []string // see missing
	cmd       *exec.Cmd
	output    bytes.Buffer
	extraArgs []string
}

// peerBinary returns the path of a real etcd tool, and skips the test when that
// version has not been built (make peers); THESEUS_PEERS names another folder.
func peerBinary(t *testing.T, version, tool string) string {
	t.Helper()
	root := os.Getenv("THESEUS_PEERS")
	if root == "" {
		root = filepath.Join("..", "build", "peers")
	}
	path, err := filepath.Abs(filepath.Join(root, version, tool))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("THESEUS_REQUIRE_PEERS") != "" {
			t.Fatalf("real %s %s is required here and absent", tool, version)
		}
		t.Skipf("no real %s %s: run make peers", tool, version)
	}
	return path
}

func freeURL(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

func newRealMember(t *testing.T, version string, args ...string) *realMember {
	t.Helper()
	m := &realMember{
		t: t, dir: filepath.Join(t.TempDir(), "data"),
		binary: peerBinary(t, version, "etcd"), api: "/v3/",
		client: freeURL(t), peer: freeURL(t), extraArgs: args,
	}
	if version == "3.3" {
		m.api = "/v3beta/"
	}
	t.Cleanup(m.kill)
	return m
}

func (m *realMember) walDir() string { return filepath.Join(m.dir, "member", "wal") }

func (m *realMember) command() *exec.Cmd {
	args := append([]string{
		"--name", "n0", "--data-dir", m.dir,
		"--listen-client-urls", m.client, "--advertise-client-urls", m.client,
		"--listen-peer-urls", m.peer, "--initial-advertise-peer-urls", m.peer,
		"--initial-cluster", "n0=" + m.peer,
	}, m.extraArgs...)
	m.output.Reset()
	cmd := exec.Command(m.binary, args...)
	cmd.Env = append(os.Environ(), "ETCD_VERIFY=all")
	cmd.Stdout, cmd.Stderr = &m.output, &m.output
	return cmd
}

// start starts the member and waits until it serves.
func (m *realMember) start() {
	m.t.Helper()
	m.cmd = m.command()
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		resp, err := http.Get(m.client + "/health")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			m.kill()
			m.t.Fatalf("real etcd does not serve:\n%s", m.output.String())
		}
		<-time.After(20 * time.Millisecond) // polls another process
	}
}

// kill is kill -9, so that nothing is flushed or finished.
func (m *realMember) kill() {
	if m.cmd == nil {
		return
	}
	m.cmd.Process.Kill()
	m.cmd.Wait()
	m.cmd = nil
	if n := len(m.keys); n > 0 && m.api == "/v3beta/" {
		m.doubtful = append(m.doubtful, m.keys[n-1])
	}
}

// put puts n keys with values of some size, one by one, each acknowledged.
func (m *realMember) put(n, size int) {
	m.t.Helper()
	for range n {
		key := fmt.Sprintf("key-%04d", len(m.keys))
		body := fmt.Sprintf(`{"key":%q,"value":%q}`, base64.StdEncoding.EncodeToString([]byte(key)),
			base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("v"), size)))
		m.post("kv/put", body)
		m.keys = append(m.keys, key)
	}
}

// has tells how many of the keys put are there.
func (m *realMember) has() int {
	m.t.Helper()
	var answer struct {
		Count int `json:",string"`
	}
	all := base64.StdEncoding.EncodeToString([]byte{0})
	if err := json.Unmarshal(m.post("kv/range", fmt.Sprintf(`{"key":%q,"range_end":%q,"count_only":true}`, all, all)), &answer); err != nil {
		m.t.Fatal(err)
	}
	return answer.Count
}

func (m *realMember) post(path, body string) []byte {
	m.t.Helper()
	resp, err := http.Post(m.client+m.api+path, "application/json", strings.NewReader(body))
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		m.t.Fatalf("%s: %s %v %s", path, resp.Status, err, answer)
	}
	return answer
}

// missing returns a key that was acknowledged and is in no entry of the log. The
// last one before a kill -9 can really be missing from that of a single 3.3, which
// acknowledges before it writes.
func (m *realMember) missing(ents []raftpb.Entry) string {
	for _, key := range m.keys {
		if slices.Contains(m.doubtful, key) {
			continue
		}
		if !slices.ContainsFunc(ents, func(e raftpb.Entry) bool { return bytes.Contains(e.Data, []byte(key)) }) {
			return key
		}
	}
	return ""
}

// TestRealMember reads the log of a real member that was killed, lets ours
// append to it, and the real one go on from there. It does so with a log that
// was cut and snapshot by the real one, by ours, and by both.
func TestRealMember(t *testing.T) {
	for _, version := range []string{"3.3", "3.4", "3.5", "3.6", "3.7"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			m := newRealMember(t, version, "--snapshot-count", "10", "--max-wals", "0")
			m.start()
			if _, _, err := Open(m.walDir(), Snapshot{}, Options{}); !errors.Is(err, vfs.ErrLocked) {
				t.Errorf("the log of a running member was opened: %v", err)
			}
			m.put(25, 100)
			m.kill()
			last := m.checkLog(version)
			m.append(last)
			m.start()
			m.put(3, 100)
			m.kill()
			m.checkLog(version)
			m.cutLastRecord()
			m.start() // it repairs what we would have repaired
			if n := m.has(); n < len(m.keys)-1-len(m.doubtful) {
				t.Errorf("%d of %d keys are left", n, len(m.keys))
			}
			m.kill()
		})
	}
}

// checkLog reads the log, from its start and from the newest snapshot.
func (m *realMember) checkLog(version string) *Contents {
	m.t.Helper()
	c, err := Read(m.walDir(), Snapshot{}, Options{})
	check(m.t, err)
	node, cluster, err := ParseMetadata(c.Metadata)
	if err != nil || node == 0 || cluster == 0 || !bytes.Equal(Metadata(node, cluster), c.Metadata) {
		m.t.Errorf("metadata %x: %x %x, %v", c.Metadata, node, cluster, err)
	}
	if key := m.missing(c.Entries); key != "" || c.Repaired != nil {
		m.t.Errorf("of the acknowledged keys %q is not in the log; repair %+v", key, c.Repaired)
	}
	valid, err := Snapshots(m.walDir(), Options{})
	check(m.t, err)
	var ids []snap.ID
	for _, s := range valid {
		ids = append(ids, snap.ID{Term: s.Term, Index: s.Index})
	}
	d, err := snap.Open(vfs.OS, filepath.Join(m.dir, "member", "snap"))
	check(m.t, err)
	s, err := d.LoadNewest(ids)
	check(m.t, err)
	newest := valid[len(valid)-1]
	if s.Metadata.Index != newest.Index || !slices.Equal(s.Metadata.ConfState.Voters, []uint64{node}) {
		m.t.Errorf("newest snapshot is %+v, the log says %+v", s.Metadata, newest)
	}
	if version >= "3.5" && (newest.ConfState == nil || !slices.Equal(newest.ConfState.Voters, []uint64{node})) {
		m.t.Errorf("snapshot record %+v", newest)
	}
	from, err := Read(m.walDir(), newest, Options{})
	check(m.t, err)
	if want := c.Entries[newest.Index:]; !cmp.Equal(want, from.Entries) || from.State != c.State {
		m.t.Errorf("from the snapshot: %d entries, want %d", len(from.Entries), len(want))
	}
	return c
}

// append writes empty entries, segments and a snapshot record with our log.
func (m *realMember) append(c *Contents) {
	m.t.Helper()
	w, _, err := Open(m.walDir(), Snapshot{}, Options{SegmentBytes: 8192})
	check(m.t, err)
	m.refuses()
	index := uint64(len(c.Entries))
	st := c.State
	for range 40 {
		var ents []raftpb.Entry
		for range 40 {
			index++
			ents = append(ents, raftpb.Entry{Term: st.Term, Index: index})
		}
		check(m.t, w.Save(st, ents))
		st.Commit = index
		check(m.t, w.Save(st, nil))
	}
	check(m.t, w.Close())
	segs, err := list(vfs.OS, m.walDir())
	if err != nil || len(segs) < 5 {
		m.t.Fatalf("segments %v, %v", segs, err)
	}
}

// refuses starts the real member on a log that we have open.
func (m *realMember) refuses() {
	m.t.Helper()
	cmd := m.command()
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	kill := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
	cmd.Wait()
	if !kill.Stop() || !strings.Contains(m.output.String(), "lock") {
		m.t.Errorf("real etcd does not stop at the lock of our log:\n%s", m.output.String())
	}
}

// cutLastRecord ends the log within its last record.
func (m *realMember) cutLastRecord() {
	m.t.Helper()
	segs, err := list(vfs.OS, m.walDir())
	check(m.t, err)
	name := filepath.Join(m.walDir(), segs[len(segs)-1].name)
	b, err := os.ReadFile(name)
	check(m.t, err)
	offs := frames(m.t, b)
	check(m.t, os.Truncate(name, int64(offs[len(offs)-1]-5)))
	c, err := Read(m.walDir(), Snapshot{}, Options{})
	check(m.t, err)
	if c.Repaired == nil || c.Repaired.Offset != int64(offs[len(offs)-2]) {
		m.t.Errorf("cut within the last record: %+v", c.Repaired)
	}
}

// TestRealSegments reads a log of several segments of 64 MB.
func TestRealSegments(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 150 MB")
	}
	for _, version := range []string{"3.5", "3.7"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			m := newRealMember(t, version)
			m.start()
			m.put(70, 1_000_000)
			m.kill()
			c, err := Read(m.walDir(), Snapshot{}, Options{})
			check(t, err)
			segs, err := list(vfs.OS, m.walDir())
			check(t, err)
			if key := m.missing(c.Entries); key != "" || len(segs) != 2 {
				t.Errorf("segments %v, %q is not there", segs, key)
			}
		})
	}
}
