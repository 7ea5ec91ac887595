package interop

import (
	"os/exec"
	"strings"
	"testing"

	"theseus/test/cluster"
)

// TestV2Keys: keys of the v2 API, in the log only or in a snapshot too, are kept under
// Theseus and reported, and the old etcd has them again.
func TestV2Keys(t *testing.T) {
	for name, args := range map[string][]string{"in the log": nil, "in a snapshot": {"--snapshot-count", "10"}} {
		t.Run(name, func(t *testing.T) {
			old := cluster.Etcd(t, "3.3")
			c := cluster.New(t, cluster.Options{Binary: old, Args: args})
			m := c.Members[0]
			v2 := func(args ...string) string {
				t.Helper()
				cmd := exec.Command(cluster.Peer(t, "3.3", "etcdctl"), append([]string{"--endpoints", m.ClientURL()}, args...)...)
				cmd.Env = append(cmd.Environ(), "ETCDCTL_API=2")
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("etcdctl %v: %v: %s", args, err, out)
				}
				return strings.TrimSpace(string(out))
			}
			v2("set", "/dir/kept", "as it is")
			v2("set", "/gone", "soon")
			v2("rm", "/gone")
			furnish(t, m.Client(), "theirs")
			look := func() string {
				t.Helper()
				node, _, _ := strings.Cut(v2("-o", "extended", "get", "/dir/kept"), "TTL")
				return v2("ls", "--recursive", "/") + node + v2("get", "/dir/kept")
			}
			before := look()
			m.Stop()

			m.Binary, m.Args = as(t, "3.4")
			m.Args = append(m.Args, args...)
			m.Start()
			m.WaitHealthy()
			if !strings.Contains(m.Log(), "keys of the v2 API") {
				t.Error("the v2 keys are not reported")
			}
			furnish(t, m.Client(), "ours")
			m.Stop()

			m.Binary, m.Args = cluster.Etcd(t, "3.4"), []string{"--enable-v2"} // the last that serves them
			m.Start()
			m.WaitHealthy()
			if after := look(); after != before {
				t.Errorf("the v2 keys were\n%s\nand are\n%s", before, after)
			}
		})
	}
}
