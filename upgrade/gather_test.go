package upgrade

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/test/cluster"
	"theseus/upgrade/plan"
	"theseus/version"
)

// inventoryOf makes an inventory of a running cluster, which is looked at over the
// wire only.
func inventoryOf(t *testing.T, c *cluster.Cluster, more string) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("cluster: test\nmembers:\n")
	for _, m := range c.Members {
		fmt.Fprintf(&b, "- {name: %s, endpoint: %q, host: {}}\n", m.Name, m.ClientURL())
	}
	fmt.Fprintf(&b, "backup: {archive: \"dir:%s\"}\n%s", t.TempDir(), more)
	path := filepath.Join(t.TempDir(), "upgrade.yaml")
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// mustRun is one verb with what it wrote.
func mustRun(t *testing.T, want int, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if code := Main(args, &out, &errs); code != want {
		t.Fatalf("%v: code %d, want %d\n%s%s", args, code, want, out.String(), errs.String())
	}
	return out.String()
}

// TestRealEtcdIsAsked looks at a real cluster of 3.4, then at the same with a member
// down, and leaves no key behind.
func TestRealEtcdIsAsked(t *testing.T) {
	c := cluster.New(t, cluster.Options{Size: 3, Binary: cluster.Etcd(t, "3.4")})
	path := inventoryOf(t, c, fmt.Sprintf("target: {binary: %q}\n", cluster.Theseus(t).Path))
	inv, err := LoadInventory(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Gather(context.Background(), inv, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range f.Members {
		if m.Err != "" || !m.Healthy || m.Leader == 0 || m.Hash == nil || len(m.Sees) != 3 || m.Quota == 0 || !m.Server.SameMinor(version.V3_4) || m.Cluster != version.V3_4 {
			t.Errorf("%+v", m)
		}
	}
	if f.Target.Version != version.Current || !f.Target.Theseus || f.Target.Product == "" {
		t.Errorf("target %+v", f.Target)
	}
	table := mustRun(t, 0, "check", "-f", path)
	if !strings.Contains(table, "cluster version  3.4") || !strings.Contains(table, "0 block") {
		t.Error(table)
	}
	cli := c.Client()
	if r, err := cli.Get(t.Context(), "", clientv3.WithPrefix()); err != nil || r.Count != 0 {
		t.Errorf("check left %v behind: %v", r, err)
	}
	var p plan.Plan
	if err := json.Unmarshal([]byte(mustRun(t, 0, "plan", "-f", path, "-o", "json")), &p); err != nil || len(p.Steps) != 21 {
		t.Errorf("%d steps: %v", len(p.Steps), err)
	}
	leader := c.Leader()
	c.Members[(leader+1)%3].Kill()
	text := mustRun(t, 0, "plan", "-f", path)
	if first := strings.Index(text, "swap "+c.Members[(leader+1)%3].Name); first < 0 || strings.Index(text, "stop ") < first {
		t.Errorf("the dead member is not the first:\n%s", text)
	}
	if text := mustRun(t, 0, "check", "-f", path); !strings.Contains(text, "NO-ANSWER") {
		t.Error(text)
	}
}

// TestEveryVersionIsAsked holds the questions to all that there is: none may fail for
// want of an RPC, and none may leave an entry in the log (3.3 makes one of the question
// for alarms).
func TestEveryVersionIsAsked(t *testing.T) {
	for _, minor := range []string{"3.3", "3.5", "3.6", "3.7", ""} {
		t.Run("etcd"+minor, func(t *testing.T) {
			b := cluster.Theseus(t)
			if minor != "" {
				b = cluster.Etcd(t, minor)
			}
			c := cluster.New(t, cluster.Options{Size: 1, Binary: b})
			inv, err := LoadInventory(inventoryOf(t, c, ""))
			if err != nil {
				t.Fatal(err)
			}
			before, err := Gather(t.Context(), inv, nil)
			if err != nil {
				t.Fatal(err)
			}
			after, err := Gather(t.Context(), inv, nil)
			if err != nil {
				t.Fatal(err)
			}
			if a, b := before.Members[0], after.Members[0]; a.Err != "" || !a.Healthy || a.Hash == nil || a.Quota == 0 || a.Auth || a.Cluster.IsZero() || minor != "3.3" && a.Index != b.Index {
				t.Errorf("%+v\n%+v", a, b)
			}
		})
	}
}

// TestHostsAreAsked names a member's process in the inventory: its command line is
// judged, the target is asked for its version there, and the snapshots are seen.
func TestHostsAreAsked(t *testing.T) {
	c := cluster.New(t, cluster.Options{Size: 1, Binary: cluster.Etcd(t, "3.4"), Args: []string{"--enable-v2=true"}})
	m := c.Members[0]
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "pid"), fmt.Append(nil, m.PID(), "\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	command, err := json.Marshal(append([]string{m.Binary.Path}, m.Flags()...))
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("cluster: test\nmembers:\n- {name: m1, endpoint: %q, host: {kind: process, pidFile: pid, command: %s}}\ntarget: {binary: %q}\nhops: [{binary: /none/etcd, version: 3.5.35}]\nbackup: {archive: \"dir:backups\"}\n",
		m.ClientURL(), command, cluster.Theseus(t).Path)
	path := filepath.Join(dir, "upgrade.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out := mustRun(t, 3, "check", "-f", path, "-o", "json")
	var got struct {
		Facts   plan.Facts
		Remarks []plan.Remark
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	f := got.Facts.Members[0]
	if f.HostErr != "" || !f.Running || f.Snapshot != -1 || f.Free == 0 {
		t.Errorf("%+v", f)
	}
	if v, product, ours := plan.ReadVersion(f.Staged[cluster.Theseus(t).Path]); !ours || product == "" || v != version.Current {
		t.Errorf("staged %q", f.Staged)
	}
	if !strings.HasPrefix(f.Staged["/none/etcd"], "error: ") {
		t.Errorf("staged %q", f.Staged)
	}
	blocks := 0
	for _, r := range got.Remarks {
		if r.Severity == plan.Block {
			if blocks++; r.Code != "FLAG-REMOVED" {
				t.Errorf("%+v", r)
			}
		}
	}
	if blocks != 1 {
		t.Errorf("%d remarks block: %+v", blocks, got.Remarks)
	}
}

// TestAuthAndV2KeysAreSeen turns auth on and writes a key of the v2 store.
func TestAuthAndV2KeysAreSeen(t *testing.T) {
	c := cluster.New(t, cluster.Options{Size: 1, Binary: cluster.Etcd(t, "3.4"), Args: []string{"--enable-v2=true"}})
	m := c.Members[0]
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, m.ClientURL()+"/v2/keys/old", strings.NewReader("value=1"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r, err := http.DefaultClient.Do(req)
	if err != nil || r.StatusCode/100 != 2 {
		t.Fatalf("%v: %v", r, err)
	}
	_ = r.Body.Close()
	cli := c.Client()
	if _, err := cli.UserAdd(t.Context(), "root", "secret"); err != nil {
		t.Fatal(err)
	}
	if _, err := cli.UserGrantRole(t.Context(), "root", "root"); err != nil {
		t.Fatal(err)
	}
	if _, err := cli.AuthEnable(t.Context()); err != nil {
		t.Fatal(err)
	}
	path := inventoryOf(t, c, "")
	if out := mustRun(t, 3, "check", "-f", path); !strings.Contains(out, "AUTH-NO-LOGIN") || !strings.Contains(out, "V2-KEYS") {
		t.Error(out)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path = inventoryOf(t, c, fmt.Sprintf("auth: {user: root, passwordFile: %q}\n", secret))
	if out := mustRun(t, 0, "check", "-f", path); strings.Contains(out, "HASH-UNKNOWN") || !strings.Contains(out, "0 block") {
		t.Error(out)
	}
}

// TestCertificatesAndAPIServers asks a server of TLS that is not etcd.
func TestCertificatesAndAPIServers(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/version" {
			_, _ = io.WriteString(w, `{"major":"1","minor":"29","gitVersion":"v1.29.3"}`)
		}
	}))
	defer s.Close()
	if got, want := expiry(t.Context(), s.URL), s.Certificate().NotAfter; !got.Equal(want) {
		t.Errorf("expiry %v, want %v", got, want)
	}
	if got := expiry(t.Context(), "http://127.0.0.1:1"); !got.IsZero() {
		t.Errorf("expiry without TLS: %v", got)
	}
	g := &gatherer{inv: &Inventory{}}
	g.inv.Kubernetes.APIServers = []string{"v1.28.1", s.URL, "http://127.0.0.1:1"}
	got := g.kubernetes(t.Context())
	if len(got) != 3 || got[0] != "1.28.1" || got[1] != "1.29.3" || !strings.HasPrefix(got[2], "error: ") {
		t.Errorf("%q", got)
	}
}

// TestCheckDocs keeps the table of codes in the documentation the one in the code.
func TestCheckDocs(t *testing.T) {
	doc, err := os.ReadFile("../docs/check.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range plan.Preflight {
		if row := "| `" + h.Code + "` | " + string(h.Severity) + " | " + h.Title + " | " + h.Mend + " |"; !strings.Contains(string(doc), row) {
			t.Errorf("docs/check.md lacks the row %s", row)
		}
	}
}

// TestTLSIsAsked looks at a cluster with certificates of its own on both ports.
func TestTLSIsAsked(t *testing.T) {
	c := cluster.Prepare(t, cluster.Options{Size: 1, Binary: cluster.Etcd(t, "3.5"), Scheme: "https", Args: []string{"--auto-tls", "--peer-auto-tls"}})
	c.Members[0].Start()
	inv, err := LoadInventory(inventoryOf(t, c, "tls: {insecureSkipVerify: true}\n"))
	if err != nil {
		t.Fatal(err)
	}
	var m plan.Member
	err = cluster.Eventually(t, func(ctx context.Context) error {
		f, err := Gather(ctx, inv, nil)
		if err != nil {
			return err
		}
		if m = f.Members[0]; !m.Healthy {
			return errors.New(m.Err + m.Reason)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if m.ClientCert.IsZero() || m.PeerCert.IsZero() || m.Hash == nil || m.Quota == 0 {
		t.Errorf("%+v", m)
	}
}

// TestSilentMembers: a port that accepts and says nothing, and one that speaks another
// protocol, cost their own answers and no more.
func TestSilentMembers(t *testing.T) {
	c := cluster.New(t, cluster.Options{Size: 1, Binary: cluster.Etcd(t, "3.4")})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	inv, err := LoadInventory(inventoryOf(t, c, ""))
	if err != nil {
		t.Fatal(err)
	}
	for name, url := range map[string]string{"silent": "http://" + l.Addr().String(), "web": web.URL} {
		inv.Members = append(inv.Members, InventoryMember{Name: name, Endpoint: url})
	}
	f, err := Gather(t.Context(), inv, nil)
	if err != nil {
		t.Fatal(err)
	}
	if f.Members[0].Err != "" || f.Members[0].Hash == nil || f.Members[1].Err == "" || f.Members[2].Err == "" {
		t.Errorf("%+v", f.Members)
	}
}

// TestMixedClusterIsAsked looks at an upgrade that is half done: no question may end a
// member of 3.4, and the plan goes on where it was left.
func TestMixedClusterIsAsked(t *testing.T) {
	old, ours := cluster.Etcd(t, "3.4"), cluster.Theseus(t)
	c := cluster.New(t, cluster.Options{Binaries: []cluster.Binary{old, ours, old}})
	path := inventoryOf(t, c, fmt.Sprintf("target: {binary: %q}\n", ours.Path))
	if out := mustRun(t, 0, "check", "-f", path); !strings.Contains(out, "VERSION-MIXED") || strings.Contains(out, "HASH-") {
		t.Error(out)
	}
	var p plan.Plan
	if err := json.Unmarshal([]byte(mustRun(t, 0, "plan", "-f", path, "-o", "json")), &p); err != nil {
		t.Fatal(err)
	}
	for _, s := range p.Steps {
		if s.Member == "m2" {
			t.Errorf("step %s: m2 is there already", s.ID)
		}
	}
	for _, m := range c.Members {
		if !m.Running() {
			t.Errorf("%s has ended", m.Name)
		}
	}
}
