package upgrade

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"theseus/test/cluster"
)

// TestApply_docker takes three containers of real etcd 3.4 to Theseus, one of them back
// and forth again, and holds what the engine has against what the operator is promised.
func TestApply_docker(t *testing.T) {
	full(t)
	e := newEngine(t)
	etcd := cluster.Peer(t, "3.4", "etcd")
	plain := e.image("etcd", etcd, "/usr/local/bin/etcd", `CMD ["/usr/local/bin/etcd"]`, "ENV FROM=etcd")
	ours := e.image("ours", cluster.Theseus(t).Path, "/usr/local/bin/etcd", `CMD ["/usr/local/bin/etcd"]`, "ENV FROM=ours")
	l := prepare(t, "http")
	e.container(l, 1, plain, "/usr/local/bin/etcd")
	e.container(l, 2, plain, "etcd")
	e.container(l, 3, plain, "/usr/local/bin/etcd")
	l.inv.Target.Image = ours
	l.write()
	l.up()
	x := l.load()
	l.must("apply", "--yes")
	l.felt(handover)
	l.versions("Theseus")
	e.holds(1, ours, plain)
	l.must("rollback", "--member", "m2")
	e.holds(2, plain, ours)
	l.must("apply", "--yes")
	x.end(handover)
	l.felt(0)
	l.versions("Theseus")
	for i := 1; i <= 3; i++ {
		e.holds(i, ours, plain)
	}
}

// holds says whether the i-th member's container runs one image with everything else as
// it was, and the one before, of the other image, is kept and cannot start by itself.
func (e *engine) holds(i int, image, kept string) {
	e.t.Helper()
	name := fmt.Sprintf("%s-m%d", e.name, i)
	at := slices.IndexFunc(e.containers(fmt.Sprintf("-m%d", i)), func(n string) bool { return strings.HasPrefix(n, name+"-theseus-kept-") })
	if at < 0 {
		e.t.Errorf("of %s there is only %q", name, e.containers(fmt.Sprintf("-m%d", i)))
		return
	}
	const format = `{{.Config.Image}} {{.State.Running}} {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.NetworkMode}} {{.Config.Labels.team}} {{.Config.Env}}`
	now := e.docker("inspect", "--format", format, name)
	from := image[strings.LastIndex(image, ":")+1:]
	if !strings.HasPrefix(now, image+" true unless-stopped host store [") || !strings.Contains(now, "FROM="+from) || !strings.Contains(now, "ETCD_LOG_LEVEL=info") {
		e.t.Errorf("%s: %s, want it to run %s", name, now, image)
	}
	before := e.docker("inspect", "--format", format, e.containers(fmt.Sprintf("-m%d", i))[at])
	if !strings.HasPrefix(before, kept+" false no host store [") {
		e.t.Errorf("kept of %s: %s, want %s", name, before, kept)
	}
}

// secured is a cluster that wants certificates on both ports and a login.
func secured(t *testing.T) *live {
	t.Helper()
	l := prepare(t, "https")
	a := cluster.NewAuthority(t)
	a.Issue("client", "operator", 7)
	for i := 1; i <= 3; i++ {
		name := fmt.Sprintf("m%d", i)
		a.Issue(name, name, int64(100+i), fmt.Sprintf("%s.%d", l.net, i), "127.0.0.1") // where a peer is seen to come from
		cert, key, ca := a.Path(name+".pem"), a.Path(name+".key"), a.Path("ca.pem")
		l.process(i, cluster.Etcd(t, "3.4"), "--cert-file", cert, "--key-file", key, "--trusted-ca-file", ca, "--client-cert-auth",
			"--peer-cert-file", cert, "--peer-key-file", key, "--peer-trusted-ca-file", ca, "--peer-client-cert-auth")
	}
	l.login.TLS = a.Client("client")
	l.inv.TLS.CACert, l.inv.TLS.Cert, l.inv.TLS.Key = a.Path("ca.pem"), a.Path("client.pem"), a.Path("client.key")
	l.target(cluster.Theseus(t))
	l.up()
	l.authOn("root", "a pass:word")
	return l
}

// TestApply_secured does all that the tool does over such connections.
func TestApply_secured(t *testing.T) {
	l := secured(t)
	x := l.load()
	l.must("check")
	l.must("plan")
	for _, args := range [][]string{{"take", "--cluster", l.inv.Cluster, "--endpoints", strings.Join(l.inv.Endpoints(), ","),
		"--cacert", l.inv.TLS.CACert, "--cert", l.inv.TLS.Cert, "--key", l.inv.TLS.Key, "--user", l.inv.Auth.User, "--password-file", l.inv.Auth.PasswordFile}, {"verify"}} {
		args = append([]string{"backup", args[0], "--archive", l.inv.Backup.Archive}, args[1:]...)
		if text, err := exec.Command(l.bin, args...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, text)
		}
	}
	l.must("apply", "--yes")
	x.end(handover)
	l.felt(handover)
	l.versions("Theseus")
	if os.Getenv("THESEUS_FULL") == "" {
		return
	}
	if _, err := l.client().Delete(t.Context(), "k", clientv3.WithPrefix()); err != nil { // a history begins with nothing
		t.Fatal(err)
	}
	x = l.load()
	l.must("rollback")
	x.end(0)
	l.felt(0)
	l.versions("3.4.")
}

// authOn turns authentication on, and has the inventory and the test's clients log in.
func (l *live) authOn(user, password string) {
	l.t.Helper()
	c, ctx := l.client(), l.t.Context()
	_, err := c.UserAdd(ctx, user, password)
	if err == nil {
		_, err = c.UserGrantRole(ctx, user, "root")
	}
	if err == nil {
		_, err = c.AuthEnable(ctx)
	}
	file := filepath.Join(l.dir, "password")
	if err == nil {
		err = os.WriteFile(file, []byte(password+"\n"), 0o600)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	l.login.Username, l.login.Password = user, password
	l.inv.Auth.User, l.inv.Auth.PasswordFile = user, file
	l.write()
}

// TestApply_mixed moves a process, a container and a static pod of one cluster.
func TestApply_mixed(t *testing.T) {
	full(t)
	e := newEngine(t)
	etcd, ours := cluster.Etcd(t, "3.4"), cluster.Theseus(t)
	from := e.image("etcd", etcd.Path, "/usr/local/bin/etcd", `ENTRYPOINT ["/usr/local/bin/etcd"]`, "ENV FROM=etcd")
	to := e.image("ours", ours.Path, "/theseus", `ENTRYPOINT ["/theseus"]`, "ENV FROM=ours")
	l := prepare(t, "http")
	l.process(1, etcd)
	e.container(l, 2, from, "")
	l.staticPod(3, from, map[string]string{from: etcd.Path, to: l.named(ours.Path)})
	l.inv.Target.Image = to
	l.target(ours)
	l.up()
	x := l.load()
	l.must("check")
	l.must("apply", "--yes")
	l.felt(handover)
	l.versions("Theseus")
	e.holds(2, to, from)
	l.must("rollback", "--member", "m3")
	l.must("rollback", "--member", "m1")
	l.must("apply", "--yes")
	l.felt(handover)
	l.versions("Theseus")
	l.must("rollback")
	x.end(2 * handover)
	l.versions("3.4.")
	e.holds(2, from, to)
}

// named is the program by the name that a static pod's command has for it.
func (l *live) named(program string) string {
	l.t.Helper()
	path := filepath.Join(l.dir, "etcd")
	if err := os.Symlink(program, path); err != nil {
		l.t.Fatal(err)
	}
	return path
}
