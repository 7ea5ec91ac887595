package interop

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"theseus/test/cluster"
)

// TestTrapManyURLs: members that have several peer URLs, given in no order, some of
// them IPv6, are one cluster under the ids that the sorted URLs make, whoever runs on
// which directory (trap 20). A cluster id that differed would keep them apart.
func TestTrapManyURLs(t *testing.T) {
	for _, minor := range cells(t, "3.3", "3.4", "3.5", "3.6", "3.7") {
		t.Run(minor, func(t *testing.T) {
			t.Parallel()
			etcd, ours := cluster.Etcd(t, minor), cluster.Theseus(t)
			c := cluster.Prepare(t, cluster.Options{Binaries: []cluster.Binary{ours, etcd, ours}, Token: "several urls"})
			var initial []string
			urls := make([]string, 3)
			for i, m := range c.Members {
				own := []string{freeURL(t, "[::1]"), m.PeerURL(), freeURL(t, "127.0.0.1")}
				if i == 2 {
					own = own[:1] // IPv6 alone
				}
				for _, u := range own {
					initial = append(initial, m.Name+"="+u)
				}
				urls[i] = strings.Join(own, ",")
			}
			for i, m := range c.Members { // the last of two equal flags counts
				m.Args = []string{"--listen-peer-urls", urls[i], "--initial-advertise-peer-urls", urls[i], "--initial-cluster", strings.Join(initial, ",")}
				m.Start()
			}
			c.WaitHealthy()
			m := &mixed{Cluster: c, t: t, minor: minor}
			m.sameMembers()
			ids := fmt.Sprint(idsOf(t, c))
			for i, b := range []cluster.Binary{etcd, ours, etcd} { // each takes over a directory of the other kind
				one := c.Members[i]
				furnish(t, c.Client(i), fmt.Sprintf("before-%d", i))
				one.Stop()
				one.Binary = b
				one.Start()
				one.WaitHealthy()
				m.sameMembers()
			}
			if now := fmt.Sprint(idsOf(t, c)); now != ids {
				t.Errorf("ids are %s, were %s", now, ids)
			}
			sameEverywhere(t, c)
		})
	}
}

// freeURL returns a peer URL on a port that is free now. A machine without IPv6 gets
// IPv4 instead.
func freeURL(t *testing.T, host string) string {
	t.Helper()
	l, err := net.Listen("tcp", host+":0")
	if err != nil && strings.HasPrefix(host, "[") {
		t.Logf("no IPv6 here: %v", err)
		l, err = net.Listen("tcp", "127.0.0.1:0")
	}
	must(t, err)
	defer func() { _ = l.Close() }()
	return "http://" + l.Addr().String()
}

func idsOf(t *testing.T, c *cluster.Cluster) (all []uint64) {
	t.Helper()
	for _, m := range c.Members {
		must(t, cluster.Eventually(t, func(ctx context.Context) error {
			st, err := m.Status(ctx)
			if err == nil {
				all = append(all, st.Header.ClusterId, st.Header.MemberId)
			}
			return err
		}))
	}
	return all
}
