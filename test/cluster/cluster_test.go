package cluster

import (
	"context"
	"testing"
	"time"
)

// TestRealEtcdUnderTheHarness proves the harness on the real thing: three
// members of etcd 3.7 serve, lose one to a cut link, and come together again.
func TestRealEtcdUnderTheHarness(t *testing.T) {
	c := New(t, Options{Size: 3, Binary: Etcd(t, "3.7"), Proxied: true})
	cli := c.Client()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := cli.Put(ctx, "a", "1"); err != nil {
		t.Fatal(err)
	}
	leader := c.Leader()
	c.Isolate(leader)
	other := c.Members[(leader+1)%3].Client()
	err := Eventually(t, func(ctx context.Context) error {
		_, err := other.Put(ctx, "b", "2")
		return err
	})
	if err != nil {
		t.Fatalf("the majority does not serve: %v", err)
	}
	short, done := context.WithTimeout(context.Background(), time.Second)
	defer done()
	if _, err := c.Members[leader].Client().Get(short, "a"); err == nil {
		t.Fatal("the member cut off from the others answered a linearizable read")
	}
	c.Heal()
	c.Members[leader].WaitHealthy()
}
