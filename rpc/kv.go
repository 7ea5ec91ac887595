package rpc

import (
	"bytes"
	"context"
	"encoding/binary"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"theseus/api"
	"theseus/internal/h2"
)

// kvService has the methods of KV that are neither hot nor raw.
type kvService struct {
	pb.UnimplementedKVServer
	f *Front
}

// Compact implements pb.KVServer.
func (s *kvService) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	return s.f.srv.Compact(ctx, r)
}

// Errors of RangeStream, which are not in etcd's table.
var (
	errStreamSort    = status.Error(codes.Unimplemented, "RangeStream does not support custom sort orders")
	errStreamFilters = status.Error(codes.Unimplemented, "RangeStream does not support revision filters")
)

func checkRangeStream(r *pb.RangeRequest) error {
	if err := checkRange(r); err != nil {
		return err
	}
	switch {
	case r.SortOrder == pb.RangeRequest_DESCEND, r.SortOrder == pb.RangeRequest_ASCEND && r.SortTarget != pb.RangeRequest_KEY:
		return errStreamSort
	case r.MinModRevision != 0 || r.MaxModRevision != 0 || r.MinCreateRevision != 0 || r.MaxCreateRevision != 0:
		return errStreamFilters
	}
	return nil
}

// rangeStream answers KV.RangeStream: a range in chunks, all at the revision of the
// first. Only the last message has a header, more and count.
func (f *Front) rangeStream(ctx context.Context, s *h2.Stream) error {
	p := pager{f: f, chunk: firstChunk}
	if err := s.RecvMsg(&p.r); err != nil {
		return err
	}
	if err := checkRangeStream(&p.r); err != nil {
		return err
	}
	p.r.SortOrder, p.r.SortTarget = pb.RangeRequest_NONE, pb.RangeRequest_KEY
	p.left = p.r.Limit
	for {
		msg, last, err := p.next(ctx)
		if err != nil {
			return err
		}
		if err := s.SendRaw([][]byte{msg}); err != nil {
			f.sendFailed(s, "range-stream")
			return err
		}
		if last {
			return nil
		}
	}
}

// firstChunk is how many keys the first message of a RangeStream holds. The next
// holds twice as many while messages stay below half of a request's largest size,
// and half as many after one above twice that size.
const firstChunk = 10

// pager reads a range chunk by chunk.
type pager struct {
	f     *Front
	r     pb.RangeRequest // of what is left
	chunk int64
	left  int64 // keys that the limit still allows; <= 0: no limit
	begun bool
	rev   int64 // revision of the header
	count int64
}

// next reads one chunk and returns it as an encoded RangeStreamResponse.
func (p *pager) next(ctx context.Context) (msg []byte, last bool, err error) {
	p.r.Limit = p.chunk
	if p.left > 0 && p.left < p.chunk {
		p.r.Limit = p.left
	}
	res, err := p.f.srv.Range(ctx, &p.r)
	if err != nil {
		return nil, false, err
	}
	if !p.begun {
		p.begin(res.Rev, res.Count)
	}
	full := p.left > 0 && int64(len(res.KVs)) >= p.left
	if last = !res.More || full; last {
		h := pb.ResponseHeader{Revision: p.rev}
		p.f.srv.FillHeader(&h)
		return rangeStreamMessage(&h, res.KVs, res.More, p.count), true, nil
	}
	if err := p.advance(res.KVs); err != nil {
		return nil, false, err
	}
	msg = rangeStreamMessage(nil, res.KVs, false, 0)
	switch limit := p.f.srv.MaxRequestBytes(); {
	case len(msg) < limit/2:
		p.chunk *= 2
	case len(msg) > 2*limit:
		p.chunk = max(1, p.chunk/2)
	}
	return msg, false, nil
}

// begin pins the revision: all further chunks are read locally at it.
func (p *pager) begin(rev, count int64) {
	p.begun, p.rev, p.count = true, rev, count
	if p.r.Revision <= 0 {
		p.r.Revision = rev
	}
	p.r.Serializable = true
}

// advance makes the rest of the range begin behind the last key of a chunk.
func (p *pager) advance(kvs [][]byte) error {
	if p.left > 0 {
		p.left -= int64(len(kvs))
	}
	var kv mvccpb.KeyValue
	if err := api.DecodeKV(kvs[len(kvs)-1], &kv); err != nil {
		return err
	}
	p.r.Key = append(bytes.Clone(kv.Key), 0)
	return nil
}

// rangeStreamMessage encodes a RangeStreamResponse: a RangeResponse in field 1.
func rangeStreamMessage(h *pb.ResponseHeader, kvs [][]byte, more bool, count int64) []byte {
	n := api.SizeRangeResponse(h, kvs, more, count)
	b := make([]byte, 0, n+binary.MaxVarintLen64+1)
	b = binary.AppendUvarint(append(b, 1<<3|2), uint64(n))
	return api.AppendRangeResponse(b, h, kvs, more, count)
}
