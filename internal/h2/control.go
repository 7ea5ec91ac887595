package h2

import (
	"time"

	"golang.org/x/net/http2"
)

// maxWindow is the largest flow-control window of HTTP/2.
const maxWindow = 1<<31 - 1

// calmError ends a connection with ENHANCE_YOUR_CALM and its text.
type calmError string

func (e calmError) Error() string { return string(e) }

func (c *conn) calm(text string) error { return calmError(text) }

// flood is what the reader remembers to tell floods from use.
type flood struct {
	idle      int    // useless frames, weighted
	sentThen  uint64 // conn.sent when idle was last set to 0
	strikes   int    // pings too early
	lastPing  time.Time
	pingSent  uint64 // conn.sent at the last ping
	tokens    float64
	tokenTime time.Time
}

// useless counts a frame that neither opened a stream nor carried data.
func (c *conn) useless(weight int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.uselessLocked(weight)
}

func (c *conn) uselessLocked(weight int) error {
	f := &c.flood
	if f.sentThen != c.sent { // we have sent since: window updates and the like are due
		f.sentThen, f.idle = c.sent, 0
	}
	if f.idle += weight; f.idle > maxIdleFrames {
		return c.calm("too_many_control_frames")
	}
	return nil
}

// reset takes one token of the rate at which streams may be reset.
func (f *flood) reset() bool {
	now := time.Now()
	if f.tokenTime.IsZero() {
		f.tokens = resetBurst
	} else {
		f.tokens = min(resetBurst, f.tokens+now.Sub(f.tokenTime).Seconds()*resetsPerSecond)
	}
	f.tokenTime = now
	f.tokens--
	return f.tokens > 0
}

// goAwayPing marks the ping that follows the first GOAWAY of a shutdown.
var goAwayPing = [8]byte{'t', 'h', 'e', 's', 'e', 'u', 's', '!'}

func (c *conn) onPing(f *http2.PingFrame) error {
	if f.IsAck() {
		if f.Data == goAwayPing {
			c.lastWord()
		}
		return c.useless(1)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.ping(true, f.Data)
	return c.strike(time.Now())
}

// strike enforces the keepalive rule as grpc-go does: a ping is free after we have
// sent something; otherwise it must come MinPing after the last one, and two hours
// after it while no call is open.
func (c *conn) strike(now time.Time) error {
	f := &c.flood
	since := now.Sub(f.lastPing)
	first := f.lastPing.IsZero()
	f.lastPing = now
	if f.pingSent != c.sent {
		f.pingSent, f.strikes = c.sent, 0
		return c.uselessLocked(1)
	}
	least := c.srv.o.MinPing
	if len(c.streams) == 0 && !c.srv.o.PingWithoutStream {
		least = pingIdle
	}
	if !first && since < least {
		f.strikes++
	}
	if f.strikes > maxPingStrikes {
		return c.calm("too_many_pings")
	}
	return nil
}

// keepalive runs on the connection's timer: it pings when nothing was read for
// KeepaliveTime, and ends the connection when nothing came for KeepaliveTimeout
// after that.
func (c *conn) keepalive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken || c.draining {
		return
	}
	reads := c.reads.Load()
	switch {
	case reads != c.readsThen:
		c.readsThen, c.pinged = reads, false
		c.timer.Reset(c.srv.o.KeepaliveTime)
	case c.pinged:
		c.breakLocked()
	default:
		c.pinged = true
		c.out.ping(false, [8]byte{})
		c.startWriter()
		c.timer.Reset(c.srv.o.KeepaliveTimeout)
	}
}

// drain begins a graceful end: GOAWAY with the highest ID possible, so that calls
// on their way still count, and a ping whose answer tells that it has been seen.
func (c *conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.draining || c.broken {
		return
	}
	c.draining = true
	c.out.goAway(1<<31-1, http2.ErrCodeNo, "")
	c.out.ping(false, goAwayPing)
	c.startWriter()
	if c.timer != nil {
		c.timer.Stop()
	}
	c.timer = time.AfterFunc(goAwayWait, c.lastWord)
}

// lastWord says the second GOAWAY, with the last stream that is answered, and ends
// the connection when no call is open.
func (c *conn) lastWord() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.draining || c.goneAway || c.broken {
		return
	}
	c.goneAway, c.finalID = true, c.lastID
	c.out.goAway(c.finalID, http2.ErrCodeNo, "")
	c.afterClose()
	c.startWriter()
}

// afterClose ends a drained connection with its last stream: the writer closes
// when everything has been written.
func (c *conn) afterClose() {
	if c.draining && c.goneAway && len(c.streams) == 0 && !c.broken {
		c.closeIdle = true
	}
}
