package rpc

import (
	"context"
	"sync"
	"time"
	"unicode/utf8"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"theseus/api"
	"theseus/internal/h2"
	"theseus/server"
)

// Metadata that clients send (surface 1.7).
const (
	mdLeader  = "hasleader"
	mdVersion = "client-api-version"
	mdToken   = "token"
	mdBearer  = "authorization"
	bearer    = "Bearer "
)

// admit is what every call must pass, in etcd's order: a learner serves little, the
// client's version is counted, and who requires a leader must have one.
func (f *Front) admit(kind requestKind, forLearner bool, version, leader string) error {
	if !forLearner && f.srv.IsLearner() {
		return api.ErrNotSupportedForLearner
	}
	if !utf8.ValidString(version) {
		return api.ErrInvalidClientAPIVersion
	}
	f.metrics.request(kind, version)
	if leader == "true" && f.srv.Leader() == 0 {
		return api.ErrNoLeader
	}
	return nil
}

// admitCall is admit for a hot call.
func (f *Front) admitCall(c *h2.Call, forLearner bool) error {
	version, _ := c.Header(mdVersion)
	leader, _ := c.Header(mdLeader)
	return f.admit(unaryRequest, forLearner, version, leader)
}

// credentials are what a hot call brought.
func (f *Front) credentials(c *h2.Call) server.Credentials {
	token, ok := c.Header(mdToken)
	if !ok {
		token, _ = c.Header(mdBearer)
	}
	return server.Credentials{Token: trimBearer(token), CommonName: f.commonName(c.Peer())}
}

func trimBearer(token string) string {
	if len(token) >= len(bearer) && token[:len(bearer)] == bearer {
		return token[len(bearer):]
	}
	return token
}

// commonName is the name in a verified client certificate.
func (f *Front) commonName(p *peer.Peer) string {
	if !f.o.ClientCertAuth || p == nil {
		return ""
	}
	tls, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return ""
	}
	for _, chain := range tls.State.VerifiedChains {
		if len(chain) > 0 {
			return chain[0].Subject.CommonName
		}
	}
	return ""
}

func first(md metadata.MD, name string) string {
	if v := md[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// identified returns ctx with the credentials of its call.
func (f *Front) identified(ctx context.Context, md metadata.MD) context.Context {
	token := first(md, mdToken)
	if len(md[mdToken]) == 0 {
		token = first(md, mdBearer)
	}
	p, _ := peer.FromContext(ctx)
	return server.WithCredentials(ctx, server.Credentials{Token: trimBearer(token), CommonName: f.commonName(p)})
}

// unary stands in front of every blocking unary method.
func (f *Front) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	began := time.Now()
	md, _ := metadata.FromIncomingContext(ctx)
	_, forLearner := req.(*pb.StatusRequest)
	if err := f.admit(unaryRequest, forLearner, first(md, mdVersion), first(md, mdLeader)); err != nil {
		return nil, err
	}
	resp, err := handler(f.identified(ctx, md), req)
	if err != nil {
		err = answerError(err)
		resp = nil
	}
	if took := time.Since(began); f.slow(took) {
		p, _ := peer.FromContext(ctx)
		in, _ := req.(proto.Message)
		out, _ := resp.(proto.Message)
		f.logSlow(slowCall{method: info.FullMethod, peer: p, began: began, took: took, req: in, resp: out})
	}
	return resp, err
}

// stream stands in front of every streaming method.
func (f *Front) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	s := ss.(*h2.Stream)
	md, _ := metadata.FromIncomingContext(s.Context())
	leader := first(md, mdLeader)
	if err := f.admit(streamRequest, info.FullMethod == pb.Maintenance_Snapshot_FullMethodName, first(md, mdVersion), leader); err != nil {
		return err
	}
	f.streams.add(s, leader == "true")
	defer f.streams.remove(s)
	err := handler(srv, identifiedStream{s, f.identified(s.Context(), md)})
	if why := s.Interrupted(); why != nil {
		return why
	}
	return answerError(err)
}

// identifiedStream is a stream whose context has credentials.
type identifiedStream struct {
	*h2.Stream
	ctx context.Context
}

func (s identifiedStream) Context() context.Context { return s.ctx }

// answerError turns the ends of contexts into etcd's words; all else goes out as it
// is, and is Unknown where it is no api.Error.
func answerError(err error) error {
	switch err {
	case context.Canceled:
		return api.ErrCanceled
	case context.DeadlineExceeded:
		return api.ErrDeadlineExceeded
	}
	return err
}

// openStreams are the streams under way, and whether they require a leader.
type openStreams struct {
	mu    sync.Mutex
	all   map[*h2.Stream]bool
	ended error // why all streams end
}

func (o *openStreams) add(s *h2.Stream, needLeader bool) {
	o.mu.Lock()
	if o.all == nil {
		o.all = map[*h2.Stream]bool{}
	}
	o.all[s] = needLeader
	ended := o.ended
	o.mu.Unlock()
	if ended != nil {
		s.Interrupt(ended)
	}
}

func (o *openStreams) remove(s *h2.Stream) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.all, s)
}

// end interrupts all streams, now and later.
func (o *openStreams) end(err error) {
	o.mu.Lock()
	o.ended = err
	o.mu.Unlock()
	o.interrupt(err, false)
}

// interrupt ends the open streams, or those of them that require a leader.
func (o *openStreams) interrupt(err error, onlyLeader bool) {
	o.mu.Lock()
	var list []*h2.Stream
	for s, needLeader := range o.all {
		if needLeader || !onlyLeader {
			list = append(list, s)
		}
	}
	o.mu.Unlock()
	for _, s := range list {
		s.Interrupt(err)
	}
}

// watchLeader ends the streams that require a leader when there has been none for
// three election timeouts.
func (f *Front) watchLeader() {
	for {
		lost := f.srv.LeaderLost()
		select {
		case <-lost:
		case <-f.done:
			return
		}
		f.streams.interrupt(api.ErrNoLeader, true)
		select { // until a leader is back, look again
		case <-time.After(leaderPoll):
		case <-f.done:
			return
		}
	}
}

// watchFence ends the watches and all other streams when the member is fenced.
func (f *Front) watchFence() {
	for {
		went, _ := f.srv.Fenced()
		select {
		case <-went:
		case <-f.done:
			return
		}
		f.streams.interrupt(api.ErrFenced, false)
		select { // until the fence is down, look again
		case <-time.After(leaderPoll):
		case <-f.done:
			return
		}
	}
}

// leaderPoll is how often streams that were opened without a leader are looked for.
const leaderPoll = 100 * time.Millisecond
