package server

import (
	"sync/atomic"
	"time"
)

// ids makes request ids that no other member makes: the low 16 bits of the member
// id, then 48 bits that start as 40 bits of unix milliseconds above an 8-bit
// counter and are counted as one number (interop 6.8).
type ids struct {
	prefix uint64
	low    atomic.Uint64
}

func newIDs(member uint64, start time.Time) *ids {
	g := &ids{prefix: member << 48}
	g.low.Store(uint64(start.UnixMilli()) << 8)
	return g
}

// next returns an id that is never 0.
func (g *ids) next() uint64 {
	for {
		if id := g.prefix | g.low.Add(1)&(1<<48-1); id != 0 {
			return id
		}
	}
}

// nextLease returns an id for a lease: positive.
func (g *ids) nextLease() int64 {
	for {
		if id := int64(g.next() & (1<<63 - 1)); id != 0 {
			return id
		}
	}
}

// ours reports whether an id may be one of this member's.
func (g *ids) ours(id uint64) bool { return id>>48 == g.prefix>>48 }
