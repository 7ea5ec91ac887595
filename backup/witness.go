package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// testimony asks all live members at the same time for their hash at the image's
// revision.
func (t *taking) testimony(ctx context.Context) []Witness {
	all := make([]Witness, len(t.o.Witnesses))
	var wg sync.WaitGroup
	for i, endpoint := range t.o.Witnesses {
		wg.Go(func() {
			all[i] = Witness{Endpoint: endpoint}
			if err := t.witness(ctx, &all[i]); err != nil {
				all[i] = Witness{Endpoint: endpoint, Err: strings.Join(strings.Fields(err.Error()), " ")}
			}
		})
	}
	wg.Wait()
	return all
}

// witness asks one member until it has come as far as the image: in revisions, and in
// what it has compacted.
func (t *taking) witness(ctx context.Context, w *Witness) error {
	if err := t.alive(ctx, w.Endpoint); err != nil {
		return err
	}
	late, stop := context.WithTimeoutCause(ctx, levelTimeout, fmt.Errorf("it has not come to revision %d within %s", t.m.Revision, levelTimeout))
	defer stop()
	for {
		err := t.hashOf(ctx, w)
		if err == nil && max(w.Compacted, 0) < t.m.Compacted {
			err = rpctypes.ErrFutureRev // its compaction lags, which changes what is hashed
		}
		switch {
		case old(err):
			return errTooOld
		case !later(err):
			return err
		}
		again := time.NewTimer(askAgain)
		select {
		case <-again.C:
		case <-late.Done():
			again.Stop()
			return context.Cause(late)
		}
	}
}

// alive asks a small question first: one that hangs is not waited for as long as a hash
// may take.
func (t *taking) alive(ctx context.Context, endpoint string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, liveTimeout, fmt.Errorf("no answer within %s", liveTimeout))
	defer cancel()
	_, err := t.o.Source.Status(ctx, endpoint)
	return caused(ctx, err)
}

func (t *taking) hashOf(ctx context.Context, w *Witness) error {
	ctx, cancel := context.WithTimeoutCause(ctx, hashTimeout, fmt.Errorf("no hash within %s", hashTimeout))
	defer cancel()
	r, err := t.o.Source.HashKV(ctx, w.Endpoint, t.m.Revision)
	if err != nil {
		return caused(ctx, err)
	}
	w.HashKV, w.Compacted = r.Hash, r.CompactRevision
	return nil
}

// judge compares. The members may have been compacted since the image was made; the
// scratch store is then compacted as far, member by member in that order.
func (t *taking) judge(s *scratch) error {
	order := make([]int, 0, len(t.m.Witnesses))
	for i, w := range t.m.Witnesses {
		if w.Err == "" {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(t.m.Witnesses[a].Compacted, t.m.Witnesses[b].Compacted)
	})
	for _, i := range order {
		w := t.m.Witnesses[i]
		h, err := s.hash(w.Compacted)
		if err != nil {
			return err
		}
		if h != w.HashKV {
			return fmt.Errorf("%w: restored it has the hash %d at revision %d, the live member %s has %d: find the member that differs with theseus upgrade check before anything else", ErrDiffers, h, t.m.Revision, w.Endpoint, w.HashKV)
		}
	}
	if len(order) > 0 || len(t.m.Witnesses) == t.count(errTooOld.Error()) {
		return nil
	}
	var said []error
	for _, w := range t.m.Witnesses {
		said = append(said, fmt.Errorf("%s: %s", w.Endpoint, w.Err))
	}
	text := strings.ReplaceAll(errors.Join(said...).Error(), "\n", "; ")
	return fmt.Errorf("the backup is not proven: no live member told its hash at revision %d (%s): try again", t.m.Revision, text)
}

// count says how many witnesses could not speak for this reason.
func (t *taking) count(reason string) int {
	n := 0
	for _, w := range t.m.Witnesses {
		if w.Err == reason {
			n++
		}
	}
	return n
}
