package interop

import (
	"context"
	"fmt"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"

	"theseus/test/cluster"
)

// TestTrapCheckpoints: what a leader writes down of a lease's remaining time (an entry
// that etcd proposes every five minutes, if it is told to) is applied by all alike, and
// whoever leads next goes on from there (trap 5).
func TestTrapCheckpoints(t *testing.T) {
	for _, minor := range cells(t, "3.4", "3.5", "3.6", "3.7") {
		t.Run(minor, func(t *testing.T) {
			t.Parallel()
			c := one3(t, minor, cluster.Options{})
			lead(t, c, true)
			ctx, cancel := within(minute)
			defer cancel()
			lease, err := c.Client(1).Grant(ctx, 10_000)
			must(t, err)
			_, err = c.Client(1).Put(ctx, "leased", "x", clientv3.WithLease(lease.ID))
			must(t, err)
			s := newStranger(t, c.Members[0])
			proposal := raftpb.Message{
				Type: raftpb.MsgProp, From: c.Members[1].ID(), To: c.Members[0].ID(),
				Entries: []raftpb.Entry{{Data: checkpoint(int64(lease.ID), 5_000)}},
			}
			b, err := proposal.Marshal()
			must(t, err)
			if status, text := s.send("POST", "/raft", s.headers(c.Members[1].ID()), b); status != 204 {
				t.Fatalf("proposal of a checkpoint: %d %s", status, text)
			}
			_, err = c.Client(0).Put(ctx, "after", "x") // the checkpoint is applied before it
			must(t, err)
			for _, ours := range []bool{false, true} {
				lead(t, c, ours)
				must(t, cluster.Eventually(t, func(ctx context.Context) error {
					ttl, err := c.Client(2).TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
					if err != nil {
						return err
					}
					if ttl.TTL > 5_000 || ttl.TTL < 4_900 || ttl.GrantedTTL != 10_000 || len(ttl.Keys) != 1 {
						return fmt.Errorf("Theseus leads %v: %+v", ours, ttl)
					}
					return nil
				}))
			}
			sameEverywhere(t, c)
			alive(t, c)
		})
	}
}

// checkpoint is an InternalRaftRequest with one lease checkpoint.
func checkpoint(lease, remaining int64) []byte {
	field := func(n protowire.Number, body []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), body)
	}
	varint := func(b []byte, n protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
	}
	one := varint(varint(nil, 1, uint64(lease)), 2, uint64(remaining))
	header := varint(nil, 1, 0x4242)
	return append(field(11, field(1, one)), field(100, header)...)
}
