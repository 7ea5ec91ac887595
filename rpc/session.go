package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"theseus/api"
)

// This file is what locks and elections share: an ownership key <name>/<lease in
// hex> under a lease. Who has the key with the lowest creation revision under the
// name owns it; the others wait until all older keys are gone. The layout is that of
// etcd's clientv3/concurrency, so clients of both kinds can stand in one queue.

const (
	sessionTTL     = 60              // seconds, of a lease that the server makes
	cleanupTimeout = 5 * time.Second // for giving up a place in the queue
)

// Errors that arrive as Unknown with these texts.
var (
	errSessionExpired = errors.New("mutex: session is expired")
	errNotLeader      = errors.New("election: not leader")
	errNoLeader       = errors.New("election: no leader")
	errMissingLeader  = errors.New(`"leader" field must be provided`)
	errLostWatcher    = errors.New("lost watcher waiting for delete")
)

// recipeError is how an error of etcd's table arrives from locks and elections: with
// its text, but as Unknown, since real members run these as clients of themselves.
func recipeError(err error) error {
	if e, ok := err.(*api.Error); ok { //nolint:errorlint // an *Error is never wrapped
		return status.Error(codes.Unknown, e.Text)
	}
	return err
}

// place is an ownership key in its queue.
type place struct {
	f      *Front
	prefix []byte // <name>/
	lease  int64
	key    []byte
	rev    int64 // the key's creation revision
}

// session returns the lease, making one if it is 0.
func (f *Front) session(ctx context.Context, lease int64) (int64, error) {
	if lease != 0 {
		return lease, nil
	}
	resp, err := f.srv.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: sessionTTL})
	if err != nil {
		return 0, err
	}
	return resp.ID, nil
}

func (f *Front) newPlace(name []byte, lease int64) *place {
	prefix := append(bytes.Clone(name), '/')
	return &place{f: f, prefix: prefix, lease: lease, key: fmt.Appendf(bytes.Clone(prefix), "%x", uint64(lease))}
}

// created is the compare that the key has the creation revision.
func (p *place) created(rev int64) []*pb.Compare {
	return []*pb.Compare{{Result: pb.Compare_EQUAL, Target: pb.Compare_CREATE, Key: p.key,
		TargetUnion: &pb.Compare_CreateRevision{CreateRevision: rev}}}
}

func opPut(r *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
}

func opRange(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func opDelete(r *pb.DeleteRangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
}

// enter puts the key with the value if it is not there, and sets rev. mine is the
// key as it was, or nil if it was not; owner is the queue's first key after it.
func (p *place) enter(ctx context.Context, value []byte) (h *pb.ResponseHeader, mine, owner *mvccpb.KeyValue, err error) {
	owners := opRange(p.firstOwner())
	resp, err := p.f.srv.Txn(ctx, &pb.TxnRequest{
		Compare: p.created(0),
		Success: []*pb.RequestOp{opPut(&pb.PutRequest{Key: p.key, Value: value, Lease: p.lease}), owners},
		Failure: []*pb.RequestOp{opRange(&pb.RangeRequest{Key: p.key}), owners},
	}, nil)
	if err != nil {
		return nil, nil, nil, err
	}
	p.rev = resp.Header.Revision
	if !resp.Succeeded {
		mine = firstKV(resp.Responses[0].GetResponseRange())
		p.rev = mine.GetCreateRevision()
	}
	return resp.Header, mine, firstKV(resp.Responses[1].GetResponseRange()), nil
}

func firstKV(r *pb.RangeResponse) *mvccpb.KeyValue {
	if len(r.GetKvs()) == 0 {
		return nil
	}
	return r.Kvs[0]
}

// firstOwner asks for the oldest key of the queue.
func (p *place) firstOwner() *pb.RangeRequest {
	return &pb.RangeRequest{Key: p.prefix, RangeEnd: prefixEnd(p.prefix), Limit: 1,
		SortTarget: pb.RangeRequest_CREATE, SortOrder: pb.RangeRequest_ASCEND}
}

// prefixEnd is the end of the range of keys with a prefix (which ends with '/').
func prefixEnd(prefix []byte) []byte {
	end := bytes.Clone(prefix)
	end[len(end)-1]++
	return end
}

// turn waits until no key of the queue is older than ours.
func (p *place) turn(ctx context.Context) error {
	for {
		res, err := p.f.srv.Range(ctx, &pb.RangeRequest{Key: p.prefix, RangeEnd: prefixEnd(p.prefix), Limit: 1,
			SortTarget: pb.RangeRequest_CREATE, SortOrder: pb.RangeRequest_DESCEND, MaxCreateRevision: p.rev - 1})
		if err != nil {
			return err
		}
		if len(res.KVs) == 0 {
			return nil
		}
		var kv mvccpb.KeyValue
		if err := api.DecodeKV(res.KVs[0], &kv); err != nil {
			return err
		}
		gone := func(e *mvccpb.Event, _ *pb.ResponseHeader) bool { return e.Type == mvccpb.Event_DELETE }
		if err := p.f.follow(ctx, &pb.WatchCreateRequest{Key: bytes.Clone(kv.Key), StartRevision: res.Rev}, gone); err != nil {
			return err
		}
	}
}

// leave deletes the key for a caller that waits no longer.
func (p *place) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	// If this fails the lease ends the key.
	_, _ = p.f.srv.Txn(ctx, &pb.TxnRequest{Compare: p.created(p.rev), Success: []*pb.RequestOp{opDelete(&pb.DeleteRangeRequest{Key: p.key})}}, nil)
}

// follow watches until fn says that an event was the last.
func (f *Front) follow(ctx context.Context, r *pb.WatchCreateRequest, fn func(e *mvccpb.Event, h *pb.ResponseHeader) (last bool)) error {
	var w watchers = f.srv.WatchHub().NewStream()
	defer w.Close()
	w.Create(r)
	for {
		msgs, err := w.Next(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return err
		}
		for _, msg := range msgs {
			var resp pb.WatchResponse
			if err := api.Unmarshal(bytes.Clone(msg), &resp); err != nil {
				return err
			}
			switch {
			case resp.CompactRevision != 0:
				return api.ErrCompacted
			case resp.Canceled:
				return errLostWatcher
			}
			for _, e := range resp.Events {
				if fn(e, resp.Header) {
					return nil
				}
			}
		}
	}
}
