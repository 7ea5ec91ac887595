package backup

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var rewrite = flag.Bool("rewrite", false, "write the golden manifest again")

// example is the manifest of the golden file.
func example() Manifest {
	s1 := Member{ID: 0xbf9071f4639c75cc, Name: "s1", PeerURLs: []string{"https://10.0.0.1:2380"}, ClientURLs: []string{"https://10.0.0.1:2379"}}
	return Manifest{
		ID: "prod-20261121T130512Z-9f3a", Cluster: "prod", ClusterID: 0xcdf818194e3a8c32,
		Taken: time.Date(2026, 11, 21, 13, 5, 12, 0, time.UTC), Source: s1, Members: []Member{s1},
		Versions: Versions{Server: "3.4.45", Cluster: "3.4.0"}, Term: 7,
		File: "prod-20261121T130512Z-9f3a.db", Size: 20512, SHA256: strings.Repeat("0f", 32),
		Revision: 42, Compacted: 30, Keys: 12, HashKV: 1084519789,
		Witnesses: []Witness{{Endpoint: "https://10.0.0.1:2379", HashKV: 1084519789, Compacted: 30}, {Endpoint: "https://10.0.0.2:2379", Err: "no hash within 2m0s"}},
		Tool:      "theseus v0.1.0",
	}
}

// TestManifestGolden holds the bytes against those of every release.
func TestManifestGolden(t *testing.T) {
	path := filepath.Join("testdata", "manifest-1.json")
	want := example()
	data, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if *rewrite {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(golden), string(data)); diff != "" {
		t.Error("written:", diff)
	}
	got, err := Decode(golden)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error("read:", err, diff)
	}
}

// TestManifestRefuses names what cannot be a manifest.
func TestManifestRefuses(t *testing.T) {
	for name, k := range map[string]struct {
		spoil func(m *Manifest)
		want  string
	}{
		"a path in id":     {func(m *Manifest) { m.ID, m.File = "../x", "../x.db" }, "is not a name"},
		"another file":     {func(m *Manifest) { m.File = "other.db" }, "is not prod-"},
		"no size":          {func(m *Manifest) { m.Size = 0 }, "size 0"},
		"no sum":           {func(m *Manifest) { m.SHA256 = "0f" }, "64 hex digits"},
		"revisions":        {func(m *Manifest) { m.Compacted = 43 }, "cannot be"},
		"no time":          {func(m *Manifest) { m.Taken = time.Time{} }, "taken"},
		"a cluster's name": {func(m *Manifest) { m.Cluster = "a/b" }, "is not a name"},
	} {
		m := example()
		k.spoil(&m)
		if _, err := m.Encode(); err == nil || !strings.Contains(err.Error(), k.want) {
			t.Errorf("%s: %v, want %q", name, err, k.want)
		}
	}
}

// FuzzManifest reads anything: what it takes, it writes again as the same.
func FuzzManifest(f *testing.F) {
	m := example()
	data, err := m.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"format":1,"checksum":"00000000","backup":null}`))
	f.Add([]byte(`{"format":2}`))
	f.Add([]byte(`{"format":1,"backup":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Decode(data)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than a line: %q", err)
			}
			return
		}
		again, err := m.Encode()
		if err != nil {
			t.Fatalf("%+v was read and cannot be written: %v", m, err)
		}
		back, err := Decode(again)
		if diff := cmp.Diff(m, back); diff != "" || err != nil {
			t.Errorf("%v %s", err, diff)
		}
	})
}

// TestRoom refuses a disk that is too small, and says by how much.
func TestRoom(t *testing.T) {
	was := freeBytes
	defer func() { freeBytes = was }()
	freeBytes = func(string) (int64, error) { return 100 << 20, nil }
	if err := room("/a", 10<<20); err != nil {
		t.Error(err)
	}
	if err := room("/a", 40<<20); err == nil || !strings.Contains(err.Error(), "100 MiB free and 104 MiB are needed") {
		t.Error(err)
	}
}
