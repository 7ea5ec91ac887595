package upgrade

import (
	"context"
	"errors"
	"testing"

	"theseus/internal/vfs"
	"theseus/version"
)

// refusing is a cluster in which a downgrade is enabled that cannot be cancelled at once.
type refusing struct {
	*fakeCluster
	left int // refusals; negative: it was cancelled
}

func (w *refusing) look(ctx context.Context, name string) view {
	v := w.fakeCluster.look(ctx, name)
	if w.left >= 0 {
		v.Lowering, v.Cluster = version.V3_4, version.V3_4
	}
	return v
}

func (w *refusing) unlower(context.Context) error {
	if w.left--; w.left >= 0 {
		return errors.New("etcdserver: not capable")
	}
	return nil
}

// TestRun_cancelRefused waits for a downgrade that cannot be cancelled yet: a leader
// refuses as long as it takes a member that was just moved for the older program.
func TestRun_cancelRefused(t *testing.T) {
	f := newFake(3, "/etcd-3.4")
	x := &fakeRun{f: f, disk: vfs.NewCrash(1), plan: f.plan(t, "/theseus")}
	o := x.options()
	w := &refusing{fakeCluster: f, left: 2}
	o.wire = w
	if _, err := Run(t.Context(), o); err != nil || w.left != -1 {
		t.Errorf("%v, %d refusals left\n%s", err, w.left, x.out.String())
	}
}
