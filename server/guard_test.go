package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"theseus/internal/vfs"
	"theseus/peer"
)

func TestBirthRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "m.birth")
	if r, err := readRecord(vfs.OS, path); r != nil || err != nil {
		t.Fatalf("a record that is not there: %v, %v", r, err)
	}
	want := birthRecord{ClusterID: 0xabc, MemberID: 0xdef, Name: "m", How: bornFounded, Born: time.Unix(1e9, 0).UTC(), Seen: time.Unix(2e9, 0).UTC(), Version: "3.7.0", Revision: 7}
	must(t, writeRecord(vfs.OS, path, want))
	got, err := readRecord(vfs.OS, path)
	if err != nil || got.MemberID != want.MemberID || got.ClusterID != want.ClusterID || got.Revision != 7 || !got.Born.Equal(want.Born) {
		t.Errorf("read %+v, %v", got, err)
	}
	b, err := os.ReadFile(path)
	must(t, err)
	for name, bad := range map[string]string{
		"a bit":        strings.Replace(string(b), `"revision": 7`, `"revision": 8`, 1),
		"half of it":   string(b[:len(b)/2]),
		"a new format": strings.Replace(string(b), `"format": 1`, `"format": 2`, 1),
		"nothing":      "",
	} {
		must(t, os.WriteFile(path, []byte(bad), 0o600))
		if _, err := readRecord(vfs.OS, path); err == nil || !strings.Contains(err.Error(), "is damaged") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A damaged record does not count as none.
	c := &testCluster{t: t}
	m := c.member("m")
	m.o.BirthRecord = path
	if held := pass(t, m.o); held == nil || !held.Lost {
		t.Errorf("with a damaged record: %v", held)
	}
}

// pass asks a gate once.
func pass(t *testing.T, o Options) *Held {
	t.Helper()
	g, err := NewGate(o)
	must(t, err)
	defer g.Close()
	err = g.Pass(t.Context())
	var held *Held
	if err != nil && !errors.As(err, &held) {
		t.Fatal(err)
	}
	return held
}

// stranger is another member as a test makes it up.
type stranger struct {
	clock   time.Duration // ahead of ours
	birth   *peer.Birth   // nil: an etcd
	cluster uint64
	members []peer.Member // nil: it has not started
}

func (s *stranger) serve(t *testing.T) (url string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/raft/probing", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"OK": true, "Now": time.Now().Add(s.clock)})
	})
	mux.HandleFunc(peer.PathBirth, func(w http.ResponseWriter, r *http.Request) {
		if s.birth == nil {
			http.NotFound(w, r)
			return
		}
		peer.ServeBirth(w, r, *s.birth)
	})
	mux.HandleFunc("/members", func(w http.ResponseWriter, r *http.Request) {
		if s.members == nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("X-Etcd-Cluster-ID", fmt.Sprintf("%x", s.cluster))
		_ = json.NewEncoder(w).Encode(s.members)
	})
	web := httptest.NewServer(mux)
	t.Cleanup(web.Close)
	return web.URL
}

// TestGate asks gates of a two-member cluster whose other member is made up.
func TestGate(t *testing.T) {
	for _, tt := range []struct {
		name   string
		record bool
		other  func(self *Options, s *stranger)
		want   []string // nil: it is let in
	}{
		{"both are new", false, func(self *Options, s *stranger) {
			s.birth = &peer.Birth{State: peer.BirthVirgin, ClusterID: 1}
		}, nil},
		{"it was started for another cluster", false, func(self *Options, s *stranger) {
			s.birth = &peer.Birth{State: peer.BirthVirgin, ClusterID: 77}
		}, []string{"was started for cluster 4d", "--initial-cluster-token"}},
		{"it has lost its data", false, func(self *Options, s *stranger) {
			s.birth = &peer.Birth{State: peer.BirthLost, Reason: "a cat ate it"}
		}, []string{"is not new: a cat ate it"}},
		{"an etcd that has not started", false, func(self *Options, s *stranger) {}, []string{"waiting for other="}},
		{"an etcd that is just founding", false, func(self *Options, s *stranger) {
			s.cluster, s.members = 1, []peer.Member{{ID: 5, Name: "m", PeerURLs: self.PeerURLs}}
		}, nil},
		{"it knows us as started", false, func(self *Options, s *stranger) {
			s.cluster, s.members = 1, []peer.Member{{ID: 5, Name: "m", PeerURLs: self.PeerURLs, ClientURLs: []string{"http://x:1"}},
				{ID: 9, Name: "other", PeerURLs: self.InitialCluster["other"], ClientURLs: []string{"http://y:1"}}}
		}, []string{"has already been bootstrapped: cluster", "knows it as started", "--on-data-loss=replace"}},
		{"it is of another cluster", false, func(self *Options, s *stranger) {
			s.cluster, s.members = 77, []peer.Member{{ID: 9, Name: "z", PeerURLs: []string{"http://z:1"}}}
		}, []string{"belongs to cluster 4d already"}},
		{"its cluster does not have us", false, func(self *Options, s *stranger) {
			s.cluster, s.members = 1, []peer.Member{{ID: 9, Name: "z", PeerURLs: []string{"http://z:1"}}}
		}, []string{"lives already", "`member add` this member"}},
		{"its clock is five minutes ahead", false, func(self *Options, s *stranger) {
			s.birth, s.clock = &peer.Birth{State: peer.BirthVirgin, ClusterID: 1}, 5*time.Minute
		}, []string{"5m0s apart (ours is behind)", "NTP"}},
		{"its clock is ten seconds behind", false, func(self *Options, s *stranger) {
			s.birth, s.clock = &peer.Birth{State: peer.BirthVirgin, ClusterID: 1}, -10*time.Second
		}, nil},
		{"a record, and all others are new", true, func(self *Options, s *stranger) {
			s.birth = &peer.Birth{State: peer.BirthVirgin, ClusterID: 1}
		}, []string{"by its birth record", "at revision 7"}},
		{"a record, and an addition, but new", true, func(self *Options, s *stranger) {
			s.cluster = 0xabc
			s.members = []peer.Member{{ID: 6, PeerURLs: self.PeerURLs}, {ID: 9, Name: "other", ClientURLs: []string{"http://y:1"}}}
		}, []string{"by its birth record", "--initial-cluster-state=existing"}},
		{"a record, and an addition", true, func(self *Options, s *stranger) {
			self.JoinExisting = true
			s.cluster = 0xabc
			s.members = []peer.Member{{ID: 6, PeerURLs: self.PeerURLs}, {ID: 9, Name: "other", PeerURLs: self.InitialCluster["other"]}}
		}, nil},
		{"a record of that very addition", true, func(self *Options, s *stranger) {
			self.JoinExisting = true
			s.cluster = 0xabc
			s.members = []peer.Member{{ID: 0xdef, PeerURLs: self.PeerURLs}, {ID: 9, Name: "other", PeerURLs: self.InitialCluster["other"]}}
		}, []string{"by its birth record"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &stranger{}
			m := (&testCluster{t: t}).member("m")
			m.o.InitialCluster = map[string][]string{"m": m.o.PeerURLs, "other": {s.serve(t)}}
			tt.other(&m.o, s)
			own, cluster := founding(t, m.o)
			// The ids that are meant to be right depend on the ports.
			if s.birth != nil && s.birth.ClusterID == 1 {
				s.birth.ClusterID = cluster
			}
			if s.cluster == 1 {
				s.cluster = cluster
			}
			for i := range s.members {
				if s.members[i].ID == 5 {
					s.members[i].ID = own
				}
			}
			if tt.record {
				m.o.BirthRecord = filepath.Join(t.TempDir(), "m.birth")
				must(t, writeRecord(vfs.OS, m.o.BirthRecord, birthRecord{ClusterID: 0xabc, MemberID: 0xdef, Name: "m", Revision: 7}))
			}
			held := pass(t, m.o)
			if tt.want == nil {
				if held != nil {
					t.Errorf("held: %v", held)
				}
				return
			}
			if held == nil {
				t.Fatal("it was let in")
			}
			for _, part := range tt.want {
				if !strings.Contains(held.Error(), part) {
					t.Errorf("%q does not say %q", held, part)
				}
			}
			if _, err := os.Stat(m.o.DataDir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the data directory is there: %v", err)
			}
		})
	}
}

// TestGateArchive founds a cluster of which there is a backup.
func TestGateArchive(t *testing.T) {
	m := (&testCluster{t: t}).member("m")
	_, cluster := founding(t, m.o)
	dir := t.TempDir()
	m.o.BirthArchive = "dir:" + dir
	write := func(name string, id uint64) {
		text := fmt.Sprintf(`{"format":1,"checksum":"0","backup":{"id":%q,"clusterID":"%x","taken":"2026-01-02T03:04:05Z","revision":7}}`, name, id)
		must(t, os.WriteFile(filepath.Join(dir, name+".json"), []byte(text), 0o600))
	}
	write("other", cluster+1)
	must(t, os.WriteFile(filepath.Join(dir, "notes.json"), []byte("[1]"), 0o600))
	if held := pass(t, m.o); held != nil {
		t.Errorf("held for another cluster's backup: %v", held)
	}
	write("prod-1", cluster)
	if held := pass(t, m.o); held == nil || !strings.Contains(held.Error(), "has its backup prod-1 of 2026-01-02T03:04:05Z, at revision 7") {
		t.Errorf("held: %v", held)
	}
	m.o.BirthArchive += "/not/there"
	if held := pass(t, m.o); held == nil || !strings.Contains(held.Error(), "cannot be read") {
		t.Errorf("held: %v", held)
	}
}

// founding are the ids of a new cluster.
func founding(t *testing.T, o Options) (self, cluster uint64) {
	t.Helper()
	g, err := NewGate(o)
	must(t, err)
	defer g.Close()
	local, err := g.initialMembers()
	must(t, err)
	cluster = g.withIDs(local)
	return g.ownID(local), cluster
}

// TestExchangedDirectories starts a member on the directory of another.
func TestExchangedDirectories(t *testing.T) {
	c := newCluster(t, 3, nil)
	for _, m := range c.members {
		<-m.Ready()
		m.put("a", m.o.Name)
	}
	a, b := c.members[0], c.members[1]
	a.stop()
	b.stop()
	a.o.DataDir, b.o.DataDir = b.o.DataDir, a.o.DataDir
	before := contents(t, a.o.DataDir)
	err := a.tryStart()
	if err == nil || !strings.Contains(err.Error(), `named "m1"`) || !strings.Contains(err.Error(), `named "m0"`) {
		t.Errorf("started on the other's directory: %v", err)
	}
	for path, sum := range contents(t, a.o.DataDir) {
		if before[path] != sum {
			t.Errorf("%s has changed", path)
		}
	}
	a.o.DataDir, b.o.DataDir = b.o.DataDir, a.o.DataDir
	a.start()
	b.start()
	c.agree()
}

// TestDirectoryOfOtherCluster starts a member of one cluster on the directory of another.
func TestDirectoryOfOtherCluster(t *testing.T) {
	one, two := newCluster(t, 2, nil), newCluster(t, 2, nil)
	for _, m := range append(one.members, two.members...) {
		<-m.Ready()
		m.put("a", m.o.Name)
	}
	a, b := one.members[0], two.members[0]
	a.stop()
	b.stop()
	own := a.o.DataDir
	a.o.DataDir = b.o.DataDir
	err := a.tryStart()
	if err == nil || !strings.Contains(err.Error(), "the members of --initial-cluster are of cluster") {
		t.Errorf("started on the other's directory: %v", err)
	}
	a.o.DataDir = own
	a.start()
	b.start()
	one.agree()
	two.agree()
}

// TestSecondHistory lets two of three members found their cluster again, as etcd would:
// the third keeps away from them with what it has.
func TestSecondHistory(t *testing.T) {
	c := newCluster(t, 3, nil)
	for _, m := range c.members {
		<-m.Ready()
	}
	for range 200 {
		c.members[0].put("a", "the first history")
	}
	c.agree()
	third := c.members[2]
	for _, m := range c.members {
		m.stop()
	}
	for _, m := range c.members[:2] {
		must(t, os.RemoveAll(m.o.DataDir))
		m.start() // by New: no gate is asked
	}
	c.members[0].put("a", "the second history")
	before := contents(t, third.o.DataDir)
	if err := third.tryStart(); err == nil || !strings.Contains(err.Error(), "they were founded again") {
		t.Errorf("the third member: %v", err)
	}
	for path, sum := range contents(t, third.o.DataDir) {
		if before[path] != sum {
			t.Errorf("%s has changed", path)
		}
	}
}
