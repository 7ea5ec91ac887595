package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// ErrMemberRemoved is what Handler.Process returns for a message from a member that
// has been removed. The sender is told, and stops itself.
var ErrMemberRemoved = errors.New("cannot process message from removed member")

// Handler is the member behind the transport. Its methods are called from many
// goroutines.
type Handler interface {
	// Process takes one message. It must not wait for raft: a message that does not
	// fit its queue is dropped with an error. ErrMemberRemoved tells the sender that
	// it has been removed for ever.
	Process(ctx context.Context, m raftpb.Message) error
	// IsRemoved tells whether the id is among the removed members. Only a yes that is
	// certain may be one: the real etcd at the other side stops itself.
	IsRemoved(id uint64) bool
	// ReportUnreachable says that a message to the member was lost.
	ReportUnreachable(id uint64)
	// ReportSnapshot says how SendSnapshot ended.
	ReportSnapshot(id uint64, ok bool)
	// SaveSnapshotDB stores the database of a received snapshot.
	SaveSnapshotDB(r io.Reader, index uint64) (int64, error)
}

// Options says how the transport runs. ID, ClusterID, LocalURLs, ServerVersion and
// Handler are needed.
type Options struct {
	ID, ClusterID uint64
	// LocalURLs are this member's advertised peer URLs.
	LocalURLs []string
	// TLS is for dialing https urls.
	TLS *tls.Config
	// DialTimeout is 1 s + election timeout / 5. Default 1.2 s.
	DialTimeout time.Duration
	// ServerVersion is the version that this member speaks, like "3.7.3"; asked for
	// every request. It must have three parts: etcd dies of anything else.
	ServerVersion func() string
	Handler       Handler
	// OnRemoved is told when a peer says that this member has been removed for ever;
	// the member must stop. It may be nil.
	OnRemoved func(by uint64)
	// Logger defaults to none, Registerer too.
	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

func (o *Options) setDefaults() {
	if o.DialTimeout == 0 {
		o.DialTimeout = 1200 * time.Millisecond
	}
	if o.OnRemoved == nil {
		o.OnRemoved = func(uint64) {}
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
}

// Limits, and what happens when they are reached.
const (
	streamQueue    = 4096 // messages on one stream; more are dropped, the peer is unreachable
	pipelineQueue  = 64   // messages waiting to be posted; more are dropped
	pipelinePosts  = 4    // posts to one peer at once; others wait in the queue
	maxRemotes     = 64   // members known only from their own requests; more are not answered
	maxFrameBytes  = 512 << 20
	maxEntries     = 1 << 20  // in one message of the msgapp stream; the stream is closed
	maxSnapMessage = 64 << 20 // in front of a received database; refused, as etcd 3.7.1 does
	writeBatch     = 256 << 10
	keepBuffer     = 1 << 20 // largest buffer that is kept for the next batch

	ioTimeout       = 5 * time.Second        // of one read or write on a stream
	linkHeartbeat   = ioTimeout / 3          // on an idle stream
	redialEvery     = 100 * time.Millisecond // per stream
	probeEvery      = 4 * time.Second
	postTimeout     = 30 * time.Second // of one message; etcd has none and waits for ever
	snapshotStall   = 30 * time.Second // of one write of a snapshot
	snapshotAnswer  = 5 * time.Minute  // from the last byte to the status: the receiver syncs
	maxClockDrift   = time.Second      // beyond it a warning is logged
	minClusterVer   = "3.0.0"
	maxResponseBody = 16 << 20 // of an answer to a Client
	maxRequestBody  = 16 << 20 // of a small request; refused with 413
)
