package rpc

import (
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
)

// slow tells whether a unary call that took so long is logged.
func (f *Front) slow(took time.Duration) bool {
	return f.debug || (f.o.WarnUnary > 0 && took > f.o.WarnUnary)
}

// slowCall is what the log says of a call.
type slowCall struct {
	method    string
	peer      *peer.Peer
	began     time.Time
	took      time.Duration
	req, resp proto.Message
	respBytes int // where resp is nil
	respKVs   int
}

// logSlow writes etcd's "request stats" line: a warning when slow, else for debug.
func (f *Front) logSlow(s slowCall) {
	log := f.lg.Debug
	if f.o.WarnUnary > 0 && s.took > f.o.WarnUnary {
		log = f.lg.Warn
	}
	remote := "No remote client info."
	if s.peer != nil && s.peer.Addr != nil {
		remote = s.peer.Addr.String()
	}
	respSize, respCount := s.respBytes, int64(s.respKVs)
	if s.resp != nil {
		respSize, respCount = proto.Size(s.resp), countOf(s.resp)
	}
	reqSize, reqCount := 0, int64(0)
	if s.req != nil {
		reqSize, reqCount = proto.Size(s.req), countOf(s.req)
	}
	log("request stats",
		zap.Time("start time", s.began),
		zap.Duration("time spent", s.took),
		zap.String("remote", remote),
		zap.String("response type", s.method),
		zap.Int64("request count", reqCount),
		zap.Int("request size", reqSize),
		zap.Int64("response count", respCount),
		zap.Int("response size", respSize),
		zap.String("request content", contentOf(s.req)),
	)
}

// countOf is how many keys a message is about.
func countOf(m proto.Message) int64 {
	switch m := m.(type) {
	case *pb.RangeResponse:
		return m.Count
	case *pb.DeleteRangeResponse:
		return m.Deleted
	case *pb.PutRequest:
		return 1
	case *pb.TxnRequest:
		return int64(len(m.Success) + len(m.Failure))
	case *pb.TxnResponse:
		return int64(len(m.Responses))
	}
	return 0
}

// contentOf describes a request without its values, which may be secret or large.
func contentOf(m proto.Message) string {
	switch m := m.(type) {
	case *pb.RangeRequest:
		return fmt.Sprintf("key:%q range_end:%q limit:%d revision:%d ", short(m.Key), short(m.RangeEnd), m.Limit, m.Revision)
	case *pb.PutRequest:
		return fmt.Sprintf("key:%q value_size:%d lease:%d ", short(m.Key), len(m.Value), m.Lease)
	case *pb.DeleteRangeRequest:
		return fmt.Sprintf("key:%q range_end:%q ", short(m.Key), short(m.RangeEnd))
	case *pb.TxnRequest:
		return fmt.Sprintf("compare:%d success:%d failure:%d ", len(m.Compare), len(m.Success), len(m.Failure))
	case *pb.LeaseGrantRequest:
		return fmt.Sprintf("TTL:%d ID:%d ", m.TTL, m.ID)
	case *pb.LeaseRevokeRequest:
		return fmt.Sprintf("ID:%d ", m.ID)
	}
	return ""
}

// short is the part of a key that a log line shows.
func short(key []byte) []byte { return key[:min(len(key), 256)] }
