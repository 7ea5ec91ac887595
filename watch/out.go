package watch

import (
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"theseus/api"
)

// out is the side of a stream that belongs to the caller of Next: what it has
// taken from the queue, and the buffers in which that becomes bytes.
type out struct {
	taken  []item
	at     int // the first item of taken that is not encoded yet
	buf    []byte
	pooled *[]byte // where buf goes back to, nil if it has
	ends   []int   // of the responses in buf
	list   [][]byte
	ticker *time.Ticker
	run    int // of merge: tells its marks from older ones

	head     []byte // the encoded header of headRev and headTerm
	headRev  int64
	headTerm uint64
}

// A stream that waits keeps room for this many responses, and for some more for
// each of its watchers. The bytes go back to a pool.
const idleItems, idleItemsPerWatcher = 64, 2

// buffers are the byte buffers of streams that have nothing to send at the moment.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// pooledBytes is the largest buffer that goes back to the pool.
const pooledBytes = 1 << 20

func (o *out) done() bool { return o.at == len(o.taken) }

// accept swaps the queue, which is not empty, for the used-up one.
func (o *out) accept(queue *[]item) {
	clear(o.taken) // lets go of the events
	o.taken, *queue = *queue, o.taken[:0]
	o.at = 0
}

// merge joins what a watcher was to be sent in several responses, as far as nothing
// else was to come between: a client pays for responses more than for events. A
// joined response has whole revisions still, and the revision of its last part.
func (o *out) merge(limits *limits) {
	o.run++
	kept := o.taken[:0]
	for _, it := range o.taken {
		if it.ctl != nil {
			o.run++ // answers keep their place among the events
			kept = append(kept, it)
			continue
		}
		if m := &it.w.merged; m.run == o.run {
			into := &kept[m.at]
			if into.size+it.size <= limits.passBytes && len(into.frames)+len(it.frames) <= limits.passRevs {
				into.join(it)
				continue
			}
		}
		it.w.merged.run, it.w.merged.at = o.run, len(kept)
		kept = append(kept, it)
	}
	clear(o.taken[len(kept):])
	o.taken = kept
}

// join appends a later item. The frames of both are shared with other watchers.
func (it *item) join(later item) {
	if !it.joined {
		it.frames = append(make([][]byte, 0, 4*(len(it.frames)+len(later.frames))), it.frames...)
		it.joined = true
	}
	it.frames = append(it.frames, later.frames...)
	it.rev, it.size = later.rev, it.size+later.size
}

// shrink gives back what a burst has left behind, before a wait.
func (o *out) shrink(watchers int) {
	clear(o.taken)
	if cap(o.taken) > idleItems+idleItemsPerWatcher*watchers {
		o.taken = nil
	}
	o.taken, o.at = o.taken[:0], 0
	o.giveBack()
	if cap(o.list) > idleItems+idleItemsPerWatcher*watchers {
		o.ends, o.list = nil, nil
	}
}

func (o *out) giveBack() {
	if o.pooled == nil {
		return
	}
	if cap(o.buf) <= pooledBytes {
		*o.pooled = o.buf[:0]
		buffers.Put(o.pooled)
	}
	o.buf, o.pooled = nil, nil
	clear(o.list)
}

func (o *out) release() {
	o.giveBack()
	if o.ticker != nil {
		o.ticker.Stop()
	}
	o.ticker = nil
}

// encode turns the next items, about limits.batchBytes of them, into responses.
func (o *out) encode(h *Hub) [][]byte {
	if o.pooled == nil {
		o.pooled = buffers.Get().(*[]byte)
		o.buf = *o.pooled
	}
	o.buf, o.ends = o.buf[:0], o.ends[:0]
	events := 0
	for o.at < len(o.taken) && (len(o.buf) < h.limits.batchBytes || len(o.ends) == 0) {
		it := &o.taken[o.at]
		o.at++
		events += len(it.frames)
		o.setHead(h, it.rev)
		switch {
		case it.ctl != nil:
			o.response(it.ctl, nil)
		case it.w.fragment && len(it.frames) > 1 && o.overhead(it)+it.size >= h.o.FragmentBytes:
			o.fragments(it, h.o.FragmentBytes)
		default:
			o.response(&api.WatchHead{ID: it.w.id}, it.frames)
		}
		if it.w != nil {
			it.w.sent = true
		}
	}
	h.eventsSent.Add(int64(events))
	o.list = o.list[:0]
	start := 0
	for _, end := range o.ends {
		o.list = append(o.list, o.buf[start:end:end])
		start = end
	}
	return o.list
}

func (o *out) setHead(h *Hub, rev int64) {
	term := h.o.Term()
	if len(o.head) > 0 && rev == o.headRev && term == o.headTerm {
		return
	}
	o.head = api.AppendHeader(o.head[:0], &pb.ResponseHeader{
		ClusterId: h.o.ClusterID, MemberId: h.o.MemberID, Revision: rev, RaftTerm: term,
	})
	o.headRev, o.headTerm = rev, term
}

func (o *out) response(head *api.WatchHead, frames [][]byte) {
	o.buf = append(o.buf, o.head...)
	o.buf = api.AppendWatchHead(o.buf, head)
	for _, f := range frames {
		o.buf = append(o.buf, f...)
	}
	o.ends = append(o.ends, len(o.buf))
}

// overhead is what a fragment takes besides its events.
func (o *out) overhead(it *item) int {
	var room [16]byte
	return len(o.head) + len(api.AppendWatchHead(room[:0], &api.WatchHead{ID: it.w.id, Fragment: true}))
}

// fragments splits a response between events into parts below limit, as far as
// single events are; all but the last say that more follows.
func (o *out) fragments(it *item, limit int) {
	frames, overhead := it.frames, o.overhead(it)
	for len(frames) > 0 {
		n, size := 1, overhead+len(frames[0])
		for n < len(frames) && size+len(frames[n]) < limit {
			size += len(frames[n])
			n++
		}
		o.response(&api.WatchHead{ID: it.w.id, Fragment: n < len(frames)}, frames[:n])
		frames = frames[n:]
	}
}
