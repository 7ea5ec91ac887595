package h2

import "time"

// Limits and sizes. Bytes and frames unless the name says otherwise.
const (
	// defaultMaxMessageBytes is grpc-go's default for received messages.
	defaultMaxMessageBytes = 4 << 20

	// maxHeaderListBytes bounds one request's header list as HTTP/2 counts it
	// (name + value + 32 a field); beyond it the stream is reset.
	maxHeaderListBytes = 1 << 20
	// maxHeaderFragments bounds the frames of one header block; beyond it the
	// connection ends (a flood of empty CONTINUATION frames).
	maxHeaderFragments = 256

	// connWindow and streamWindow are the receive windows that we announce. A
	// stream's window is refilled as its messages are taken, the connection's at
	// once: what an unfinished request may hold is bounded by maxHeldBytes.
	connWindow   = 16 << 20
	streamWindow = 1 << 20

	// maxHeldBytes bounds what a connection's unfinished requests, untaken
	// stream messages and headers hold. The stream that goes beyond is reset
	// with ENHANCE_YOUR_CALM.
	maxHeldBytes = 256 << 20
	// maxQueuedBytes bounds answers that wait for a flow-control window. While a
	// connection is above it, new streams are refused.
	maxQueuedBytes = 256 << 20
	// streamQueueBytes is where a stream's sender waits for the peer to read.
	streamQueueBytes = 256 << 10
	// outHighBytes is how much is prepared for one write to the socket; DATA
	// beyond it stays in the queues of its streams.
	outHighBytes = 256 << 10
	// outStopBytes is where a connection's reader stops until the socket drains:
	// answers that are no DATA (pings, settings, resets) pile up behind a peer
	// that does not read.
	outStopBytes = 4 << 20
	// maxOpenStreams bounds open streams where no announced limit does.
	maxOpenStreams = 1 << 20

	// copyBelow is the size up to which payload is copied beside its frame
	// header; larger payload is written from where it lies.
	copyBelow = 4 << 10
	// readBufferBytes is a connection's read buffer.
	readBufferBytes = 32 << 10
	// pooledBytes is how large a write buffer a connection may keep while it has
	// nothing to write.
	pooledBytes = 16 << 10
	// largeBytes is the size of a write buffer that has outgrown pooledBytes: what is
	// prepared for one write, and the frame that went over the mark.
	largeBytes = outHighBytes + 32<<10

	// maxPingStrikes is how many pings too early are forgiven (grpc-go).
	maxPingStrikes = 2
	// pingIdle is the shortest interval between pings without open calls
	// (grpc-go).
	pingIdle = 2 * time.Hour

	// maxIdleFrames bounds frames that neither open a stream nor carry data, since
	// the last that did or that we sent. Beyond it: ENHANCE_YOUR_CALM.
	maxIdleFrames = 10_000
	// settingsWeight is what a SETTINGS frame counts as among those.
	settingsWeight = 50
	// resetBurst and resetsPerSecond bound the streams that a peer may reset
	// while they are being answered ("rapid reset"). Beyond: ENHANCE_YOUR_CALM.
	resetBurst      = 20_000
	resetsPerSecond = 2_000
	// maxOrphans bounds handlers that still run for streams that were reset.
	maxOrphans = 20_000

	// handshakeTimeout bounds TLS handshake and connection preface.
	handshakeTimeout = 20 * time.Second
	// goAwayWait is how long a graceful shutdown waits for the peer to have seen
	// the first GOAWAY (its ping answered).
	goAwayWait = time.Second
	// lingerTime is how long a closed connection is read on, so that the peer
	// sees our last frames and not a reset.
	lingerTime = 500 * time.Millisecond
)
