package rpc

import (
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"theseus/api"
	"theseus/internal/h2"
	"theseus/server"
)

// The hot methods run on a connection's reader: they decode, check and hand the
// request to server, which calls Done on the call when it has the answer. Nothing
// here waits, and an answer is appended to a pooled buffer.

// hotCall is one hot call under way: the server.Waiter of its request.
type hotCall struct {
	f     *Front
	c     *h2.Call
	began time.Time
	req   proto.Message
}

// begin decodes the request into req and admits the call. If it returns false the
// call has been answered. raw is the request's bytes if they may become part of a
// raft entry as they are, else nil.
func (h *hotCall) begin(f *Front, c *h2.Call, req proto.Message, forLearner bool) (raw []byte, ok bool) {
	h.f, h.c, h.req = f, c, req
	if f.o.WarnUnary > 0 || f.debug {
		h.began = time.Now()
	}
	plain, err := api.UnmarshalPlain(c.Request(), req)
	if err != nil {
		c.Reply(nil, status.Errorf(codes.Internal, "grpc: error unmarshalling request: %v", malformed(c.Request(), req)))
		return nil, false
	}
	if r, isRange := req.(*pb.RangeRequest); isRange {
		forLearner = r.Serializable
	}
	if err := f.admitCall(c, forLearner); err != nil {
		c.Reply(nil, err)
		return nil, false
	}
	if plain {
		raw = c.Request()
	}
	return raw, true
}

// refuse answers with the error of a check, if it is one.
func (h *hotCall) refuse(err error) bool {
	if err != nil {
		h.c.Reply(nil, err)
	}
	return err != nil
}

// largeAnswer is the size from which an answer is encoded by a goroutine of its own,
// so that it does not hold up who tells of it: often the goroutine that applies.
const largeAnswer = 128 << 10

// Done implements server.Waiter.
func (h *hotCall) Done(o server.Outcome) {
	if o.Err == nil && o.Resp != nil && api.Size(o.Resp) > largeAnswer {
		h.f.spawn(func() { h.answer(o) })
		return
	}
	h.answer(o)
}

func (h *hotCall) answer(o server.Outcome) {
	f, c := h.f, h.c
	var size int
	switch {
	case o.Err != nil:
		c.Reply(nil, answerError(o.Err))
	case o.Resp == nil:
		b := f.appendRange(c, o.Range)
		size = len(b)
		c.Reply(b, nil)
	default:
		f.complete(o.Resp)
		b := api.Append(c.Buffer(), o.Resp)
		size = len(b)
		c.Reply(b, nil)
	}
	if !h.began.IsZero() {
		if took := time.Since(h.began); f.slow(took) {
			f.logSlow(slowCall{method: c.Method().Path, peer: c.Peer(), began: h.began, took: took,
				req: h.req, resp: o.Resp, respBytes: size, respKVs: len(o.Range.KVs)})
		}
	}
}

// complete fills the header of an answer.
func (f *Front) complete(m proto.Message) {
	switch r := m.(type) {
	case *pb.PutResponse:
		r.Header = f.filled(r.Header)
	case *pb.TxnResponse:
		r.Header = f.filled(r.Header)
	case *pb.DeleteRangeResponse:
		r.Header = f.filled(r.Header)
	case *pb.LeaseGrantResponse:
		r.Header = f.filled(r.Header)
	case *pb.LeaseRevokeResponse:
		r.Header = f.filled(r.Header)
	}
}

func (f *Front) filled(h *pb.ResponseHeader) *pb.ResponseHeader {
	if h == nil {
		h = &pb.ResponseHeader{}
	}
	f.srv.FillHeader(h)
	return h
}

// smallRange is up to how many bytes an answer goes into the call's pooled buffer.
const smallRange = 3 << 10

// appendRange encodes the answer of a range in one piece of the right size.
func (f *Front) appendRange(c *h2.Call, r server.RangeResult) []byte {
	var h pb.ResponseHeader
	h.Revision = r.Rev
	f.srv.FillHeader(&h)
	n := api.SizeRangeResponse(&h, r.KVs, r.More, r.Count)
	if n <= smallRange {
		return api.AppendRangeResponse(c.Buffer(), &h, r.KVs, r.More, r.Count)
	}
	return api.AppendRangeResponse(make([]byte, 0, n), &h, r.KVs, r.More, r.Count)
}

type rangeCall struct {
	hotCall
	r pb.RangeRequest
}

func (f *Front) rangeKeys(c *h2.Call) {
	x := new(rangeCall)
	if _, ok := x.begin(f, c, &x.r, false); !ok || x.refuse(checkRange(&x.r)) {
		return
	}
	f.srv.StartRange(f.credentials(c), &x.r, x)
}

type putCall struct {
	hotCall
	r pb.PutRequest
}

func (f *Front) put(c *h2.Call) {
	x := new(putCall)
	raw, ok := x.begin(f, c, &x.r, false)
	if !ok || x.refuse(checkPut(&x.r)) {
		return
	}
	f.srv.StartPut(f.credentials(c), &x.r, raw, x)
}

type deleteCall struct {
	hotCall
	r pb.DeleteRangeRequest
}

func (f *Front) deleteRange(c *h2.Call) {
	x := new(deleteCall)
	raw, ok := x.begin(f, c, &x.r, false)
	if !ok || x.refuse(checkDeleteRange(&x.r)) {
		return
	}
	f.srv.StartDeleteRange(f.credentials(c), &x.r, raw, x)
}

type txnCall struct {
	hotCall
	r pb.TxnRequest
}

func (f *Front) txn(c *h2.Call) {
	x := new(txnCall)
	raw, ok := x.begin(f, c, &x.r, false)
	if !ok || x.refuse(checkTxn(&x.r, f.maxOps)) {
		return
	}
	f.srv.StartTxn(f.credentials(c), &x.r, raw, x)
}

type grantCall struct {
	hotCall
	r pb.LeaseGrantRequest
}

func (f *Front) leaseGrant(c *h2.Call) {
	x := new(grantCall)
	if _, ok := x.begin(f, c, &x.r, false); !ok {
		return
	}
	f.srv.StartLeaseGrant(f.credentials(c), &x.r, x)
}

type revokeCall struct {
	hotCall
	r pb.LeaseRevokeRequest
}

func (f *Front) leaseRevoke(c *h2.Call) {
	x := new(revokeCall)
	if _, ok := x.begin(f, c, &x.r, false); !ok {
		return
	}
	f.srv.StartLeaseRevoke(f.credentials(c), &x.r, x)
}
