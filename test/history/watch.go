package history

import (
	"bytes"
	"fmt"
	"sort"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Stream is what one watcher of a prefix was sent, response by response.
type Stream struct {
	Name  string
	Start int64 // revision it asked to start from
	Parts []Part
}

// Part is one watch response.
type Part struct {
	Revision int64 // of the header
	Progress bool  // a bookmark: no events
	Events   []*clientv3.Event
}

// Add appends a response of clientv3.
func (s *Stream) Add(r clientv3.WatchResponse) {
	if r.Canceled || r.Created && len(r.Events) == 0 {
		return
	}
	s.Parts = append(s.Parts, Part{Revision: r.Header.Revision, Progress: r.IsProgressNotify(), Events: r.Events})
}

// Last returns the revision of the newest event or bookmark.
func (s *Stream) Last() int64 {
	var last int64
	for _, p := range s.Parts {
		if p.Progress {
			last = max(last, p.Revision)
		}
		for _, e := range p.Events {
			last = max(last, e.Kv.ModRevision)
		}
	}
	return last
}

// CheckWatch holds the streams against the six guarantees: within a stream,
// and between streams. acked are the writes that clients were told of: each one
// inside what a stream covers must be in it (reliable).
func CheckWatch(streams []*Stream, acked map[int64]Request) error {
	seen := map[string]*clientv3.Event{} // by revision and key: what any stream said
	for _, s := range streams {
		if err := s.check(seen); err != nil {
			return fmt.Errorf("watcher %s: %w", s.Name, err)
		}
	}
	for _, s := range streams {
		if err := s.complete(seen, acked); err != nil {
			return fmt.Errorf("watcher %s: %w", s.Name, err)
		}
	}
	return nil
}

func eventKey(rev int64, key []byte) string { return fmt.Sprintf("%020d/%s", rev, key) }

// check looks at one stream alone, and that no two streams tell one event in
// different ways.
func (s *Stream) check(seen map[string]*clientv3.Event) error {
	var last, bookmark int64
	mine := map[string]bool{}
	for _, p := range s.Parts {
		if p.Progress {
			bookmark = max(bookmark, p.Revision)
		}
		first := true
		for _, e := range p.Events {
			rev := e.Kv.ModRevision
			id := eventKey(rev, e.Kv.Key)
			switch {
			case rev < s.Start:
				return fmt.Errorf("event %s before the start revision %d", id, s.Start)
			case mine[id]:
				return fmt.Errorf("event %s came twice (unique)", id)
			case rev < last:
				return fmt.Errorf("event %s after revision %d (ordered)", id, last)
			case rev == last && first:
				return fmt.Errorf("revision %d is split over two responses (atomic)", rev)
			case rev <= bookmark:
				return fmt.Errorf("event %s after the bookmark %d (bookmarkable)", id, bookmark)
			case rev > p.Revision:
				return fmt.Errorf("event %s in a response of revision %d", id, p.Revision)
			}
			if other := seen[id]; other != nil && (other.Type != e.Type || !bytes.Equal(other.Kv.Value, e.Kv.Value)) {
				return fmt.Errorf("event %s differs from what another watcher was told", id)
			}
			mine[id], seen[id], last, first = true, e, rev, false
		}
	}
	return nil
}

// complete checks that between its start and its newest event the stream has
// every event that any other stream has, and every acknowledged write.
func (s *Stream) complete(seen map[string]*clientv3.Event, acked map[int64]Request) error {
	last := s.Last()
	mine := map[string]bool{}
	for _, p := range s.Parts {
		for _, e := range p.Events {
			mine[eventKey(e.Kv.ModRevision, e.Kv.Key)] = true
		}
	}
	var missing []string
	for id, e := range seen {
		if e.Kv.ModRevision >= s.Start && e.Kv.ModRevision <= last && !mine[id] {
			missing = append(missing, id)
		}
	}
	for rev, q := range acked {
		if id := eventKey(rev, []byte(q.Key)); rev >= s.Start && rev <= last && !mine[id] {
			missing = append(missing, id+" (acknowledged)")
		}
	}
	if len(missing) > 0 {
		sort.Strings(missing)
		return fmt.Errorf("%d events missing up to revision %d, the first is %s (reliable, resumable)", len(missing), last, missing[0])
	}
	return nil
}
