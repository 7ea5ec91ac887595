package faults

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"theseus/test/cluster"
)

// TestForwardedToDeadLeader: a write that a follower has forwarded to a leader that
// stands still fails soon after another one leads, instead of after the seven seconds
// that a request may take.
func TestForwardedToDeadLeader(t *testing.T) {
	c := cluster.New(t, cluster.Options{Size: 3})
	lead := c.Leader()
	cli := c.Client((lead + 1) % 3)
	if _, err := cli.Put(context.Background(), "k0", "before"); err != nil {
		t.Fatal(err)
	}
	c.Members[lead].Pause()
	began := time.Now()
	_, err := cli.Put(context.Background(), "k1", "forwarded")
	took := time.Since(began)
	c.Members[lead].Resume()
	if !errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail) {
		t.Errorf("a write given to a leader that stands still: %v", err)
	}
	if took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	t.Logf("failed after %s", took.Round(time.Millisecond))
	if _, err := cli.Put(context.Background(), "k2", "after"); err != nil {
		t.Error(err)
	}
}
