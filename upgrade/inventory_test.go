package upgrade

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"theseus/upgrade/host"
)

const goodInventory = `
cluster: prod
members:
- {name: s1, endpoint: "https://10.0.0.1:2379", host: {kind: systemd, ssh: root@10.0.0.1, sshKey: id, unit: etcd}}
- {name: s2, endpoint: "https://10.0.0.2:2379", host: {kind: docker, ssh: root@10.0.0.2, container: etcd}}
- {name: s3, endpoint: "https://10.0.0.3:2379", host: {kind: staticpod, manifest: /etc/kubernetes/manifests/etcd.yaml}}
tls: {cacert: ca.crt, cert: client.crt, key: client.key}
auth: {user: root, passwordFile: secret}
backup: {archive: "dir:backups"}
target: {binary: /opt/theseus/theseus}
hops: [{image: "etcd:v3.5.35", version: 3.5.35}]
limits: {stall: 1s, catchup: 5m}
kubernetes: {apiservers: [1.29.3, "https://10.0.0.1:6443"]}
`

func loadText(t *testing.T, text string) (*Inventory, string, error) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "upgrade.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	inv, err := LoadInventory(path)
	return inv, dir, err
}

func TestInventory(t *testing.T) {
	inv, dir, err := loadText(t, goodInventory)
	if err != nil {
		t.Fatal(err)
	}
	for got, want := range map[string]string{
		inv.TLS.CACert: "ca.crt", inv.TLS.Cert: "client.crt", inv.TLS.Key: "client.key", inv.Auth.PasswordFile: "secret",
		strings.TrimPrefix(inv.Backup.Archive, "dir:"): "backups", inv.Members[0].Host.SSHKey: "id", inv.State: "upgrade-prod",
	} {
		if got != filepath.Join(dir, want) {
			t.Errorf("%s, want %s in %s", got, want, dir)
		}
	}
	l, err := inv.limits()
	if err != nil || l.Stall != time.Second || l.Catchup != 5*time.Minute || l.Stop != time.Minute {
		t.Errorf("%+v, %v", l, err)
	}
}

// TestMixedHosts: binaries here and images there need both in the target.
func TestMixedHosts(t *testing.T) {
	p := Program{Binary: "/b", Image: "i"}
	if got := p.of(host.Program{Image: "x"}).host().String(); got != "i" {
		t.Error(got)
	}
	if got := p.of(host.Program{Binary: "/x"}).host().String(); got != "/b" {
		t.Error(got)
	}
}

// TestInventoryIsStrict changes one thing at a time: the error names the field.
func TestInventoryIsStrict(t *testing.T) {
	for _, tt := range []struct{ from, to, want string }{
		{"cluster: prod", "cluster: ../x", "cluster:"},
		{"cluster: prod", "cluster: prod\ncolour: red", `unknown field "colour"`},
		{"unit: etcd", "unti: etcd", `unknown field "unti"`},
		{"cluster: prod", "cluster: prod\ncluster: prod", "already set"},
		{"unit: etcd", "", "members[0].host.unit"},
		{"kind: docker", "kind: podman", "members[1].host.kind"},
		{"kind: docker", "kind: process", "members[1].host.pidFile"},
		{"name: s2", "name: s1", "members[1].name"},
		{"name: s2", `name: ""`, "members[1].name"},
		{"10.0.0.2:2379", "10.0.0.1:2379", "members[1].endpoint"},
		{"https://10.0.0.2:2379", "10.0.0.2:2379", "members[1].endpoint"},
		{"https://10.0.0.2:2379", "https://10.0.0.2", "members[1].endpoint"},
		{", key: client.key", "", "tls:"},
		{", passwordFile: secret", "", "auth:"},
		{"dir:backups", "s3://x", "backup.archive"},
		{"dir:backups", "dir:", "backup.archive"},
		{"binary: /opt", "binary: opt", "target.binary"},
		{"version: 3.5.35", "version: three", "hops[0].version"},
		{`image: "etcd:v3.5.35", `, "", "hops[0]"},
		{"stall: 1s", "stall: 1", "limits.stall"},
		{"stall: 1s", "stall: -1s", "limits.stall"},
		{"1.29.3", "latest", "kubernetes.apiservers[0]"},
	} {
		text := strings.Replace(goodInventory, tt.from, tt.to, 1)
		if text == goodInventory {
			t.Fatalf("%q is not in the inventory", tt.from)
		}
		if _, _, err := loadText(t, text); err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s -> %s: %v, want %s", tt.from, tt.to, err, tt.want)
		}
	}
	if _, _, err := loadText(t, "cluster: c\n"); err == nil || !strings.Contains(err.Error(), "members: there is none") {
		t.Error(err)
	}
	if _, err := LoadInventory(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there was loaded")
	}
}

// TestLocalPathsAreRelativeToTheInventory: a host of this machine may be named so.
func TestLocalPathsAreRelativeToTheInventory(t *testing.T) {
	inv, dir, err := loadText(t, `
cluster: c
members:
- {name: s1, endpoint: "http://127.0.0.1:2379", host: {kind: process, command: [bin/etcd, --name, s1], pidFile: s1.pid, log: s1.log}}
target: {binary: bin/theseus}
`)
	if err != nil {
		t.Fatal(err)
	}
	h := inv.Members[0].Host
	for got, want := range map[string]string{h.Command[0]: "bin/etcd", h.PIDFile: "s1.pid", h.Log: "s1.log", inv.Target.Binary: "bin/theseus"} {
		if got != filepath.Join(dir, want) {
			t.Errorf("%s, want %s in %s", got, want, dir)
		}
	}
	hosts, err := inv.Hosts()
	if err != nil || hosts["s1"] == nil {
		t.Fatalf("%v, %v", hosts, err)
	}
	_ = hosts["s1"].Close()
	inv.Members[0].Host.Kind = ""
	if _, err := inv.Hosts(); err == nil || !strings.Contains(err.Error(), "members[0].host") {
		t.Error(err)
	}
}
