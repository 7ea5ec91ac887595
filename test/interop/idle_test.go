package interop

import (
	"testing"

	"theseus/test/cluster"
)

// TestJoinsIdle adds members of etcd to a cluster that Theseus leads and nobody writes
// to, when they need a snapshot of more than 5,000 entries. etcd 3.7 does not count a
// snapshot as applied, so among its own it refuses its own proposals from then on, never
// publishes itself, and never serves.
func TestJoinsIdle(t *testing.T) {
	for _, minor := range []string{"3.6", "3.7"} {
		t.Run(minor, func(t *testing.T) {
			t.Parallel()
			m := &mixed{t: t, minor: minor, etcd: cluster.Etcd(t, minor)}
			m.Cluster = one3(t, minor, cluster.Options{Args: []string{"--snapshot-count", "100"}})
			lead(t, m.Cluster, true)
			m.putMany(m.Client(0), "fill", 12000)
			one := m.Join(m.etcd, false)
			one.WaitHealthy()
			sameEverywhere(t, m.Cluster)
		})
	}
}
