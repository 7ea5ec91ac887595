package h2

import (
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// codesKnown is how many gRPC status codes there are.
const codesKnown = int(codes.Unauthenticated) + 1

// A Method is one registered method and its counters, which may be read at any
// time.
type Method struct {
	Path    string // "/package.Service/Method"
	Service string // "package.Service"
	Name    string // "Method"

	inline func(c *Call)
	unary  *grpc.MethodDesc
	stream *grpc.StreamDesc
	impl   any

	// Started counts calls that reached the handler; Received and Sent count
	// messages, Handled finished calls by status code.
	Started, Received, Sent atomic.Uint64
	Handled                 [codesKnown]atomic.Uint64
	// ReceivedBytes and SentBytes count the messages' bytes, uncompressed.
	ReceivedBytes, SentBytes atomic.Uint64
}

// Type is the method's kind as gRPC's Prometheus labels spell it: unary,
// client_stream, server_stream or bidi_stream.
func (m *Method) Type() string {
	switch {
	case m.stream == nil:
		return "unary"
	case m.stream.ClientStreams && m.stream.ServerStreams:
		return "bidi_stream"
	case m.stream.ClientStreams:
		return "client_stream"
	default:
		return "server_stream"
	}
}

func (m *Method) handled(code codes.Code) {
	if int(code) >= codesKnown {
		code = codes.Unknown
	}
	m.Handled[code].Add(1)
}

// Methods calls fn for every registered method, in no order.
func (s *Server) Methods(fn func(m *Method)) {
	for _, m := range s.methods {
		fn(m)
	}
}
