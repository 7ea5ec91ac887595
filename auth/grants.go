package auth

import (
	"bytes"
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
)

// span is [begin, end); a nil end is without bound. A single key k is
// [k, k+"\0"), which holds k alone.
type span struct{ begin, end []byte }

// spanOf reads a key and a range end as etcd's requests and permissions write them.
func spanOf(key, end []byte) span {
	switch {
	case len(end) == 0:
		return span{key, append(slices.Clip(slices.Clone(key)), 0)}
	case len(end) == 1 && end[0] == 0:
		return span{key, nil}
	}
	return span{key, end}
}

// endsBefore reports whether a ends before b does.
func endsBefore(a, b []byte) bool {
	return a != nil && (b == nil || bytes.Compare(a, b) < 0)
}

// grants are the spans that a user's roles give together: sorted, and so merged
// that an interval is covered only if one span covers it.
type grants struct{ read, write []span }

func (g *grants) add(permissions []*authpb.Permission) {
	for _, p := range permissions {
		s := spanOf(p.Key, p.RangeEnd)
		if p.PermType == authpb.READ || p.PermType == authpb.READWRITE {
			g.read = append(g.read, s)
		}
		if p.PermType == authpb.WRITE || p.PermType == authpb.READWRITE {
			g.write = append(g.write, s)
		}
	}
}

func (g *grants) merge() { g.read, g.write = merged(g.read), merged(g.write) }

func merged(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return bytes.Compare(a.begin, b.begin) })
	out := spans[:0]
	for _, s := range spans {
		if s.end != nil && bytes.Compare(s.begin, s.end) >= 0 {
			continue // holds no key; old members accepted such permissions
		}
		last := len(out) - 1
		if last >= 0 && !endsBefore(out[last].end, s.begin) {
			if endsBefore(out[last].end, s.end) {
				out[last].end = s.end
			}
			continue
		}
		out = append(out, s)
	}
	return out
}

// cover reports whether the whole of [key, end) is granted.
func (g *grants) cover(key, end []byte, perm authpb.Permission_Type) bool {
	spans := g.read
	if perm == authpb.WRITE {
		spans = g.write
	}
	i, same := slices.BinarySearchFunc(spans, key, func(s span, key []byte) int { return bytes.Compare(s.begin, key) })
	if !same {
		i-- // the last one that begins before key
	}
	if i < 0 {
		return false
	}
	s := spans[i]
	if s.end != nil && bytes.Compare(key, s.end) >= 0 {
		return false
	}
	// An interval the wrong way round is decided by its key alone. etcd's answer then
	// hangs on the shape of a tree; nothing can be read or deleted by it.
	return len(end) == 0 || !endsBefore(s.end, spanOf(key, end).end)
}
