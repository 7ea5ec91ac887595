package mvcc

import (
	"errors"
	"fmt"

	"theseus/api"
)

// Events calls fn with the changes of each main revision of [fromRev, toRev], in
// order, for at most maxRevs revisions (0: no limit), and returns the revision to
// go on from. It fails with api.ErrCompacted if fromRev is below the compacted
// revision, also if it came to be while Events ran; next then tells how far it
// came before. An error of fn ends it and is returned. Any goroutine may call it.
func (s *Store) Events(fromRev, toRev int64, maxRevs int, fn func([]Event) error) (next int64, err error) {
	toRev = min(toRev, s.rev.Load())
	next = max(fromRev, 0)
	if next < s.compacted.Load() {
		return next, api.ErrCompacted
	}
	for revs := maxRevs; next <= toRev; {
		events, end, err := s.readEvents(next, toRev, revs)
		if err != nil {
			return next, err
		}
		if next < s.compacted.Load() { // looked at last: records may have gone while they were read
			return next, api.ErrCompacted
		}
		for len(events) > 0 {
			n := 1
			for n < len(events) && events[n].Rev.Main == events[0].Rev.Main {
				n++
			}
			next = events[0].Rev.Main + 1
			if err := fn(events[:n:n]); err != nil {
				return next, err
			}
			events = events[n:]
			if revs--; revs == 0 {
				return next, nil
			}
		}
		next = end
	}
	return next, nil
}

// eventsBytes bounds what Events reads from the backend in one go, so that a slow
// receiver does not hold pages of the file.
const eventsBytes = 1 << 20

// readEvents reads whole main revisions from one on: at most revs of them (0: no
// limit), and about eventsBytes. end is the revision to go on from.
func (s *Store) readEvents(from, to int64, revs int) (events []Event, end int64, err error) {
	left := eventsBytes
	end = to + 1
	scanErr := s.b.Scan(keyBucket, mainKey(from), mainKey(to+1), func(k, v []byte) bool {
		var at stamp
		if at, err = parseStamp(k); err != nil {
			return false
		}
		if n := len(events); n > 0 && events[n-1].Rev.Main != at.main {
			if revs--; revs == 0 || left <= 0 {
				end = at.main
				return false
			}
		}
		var e Event
		if e, err = newEvent(at, v); err != nil {
			return false
		}
		events = append(events, e)
		left -= len(v)
		return true
	})
	return events, end, errors.Join(err, scanErr)
}

// newEvent makes an event of a record in the file.
func newEvent(at stamp, value []byte) (Event, error) {
	f, err := parse(value)
	if err != nil {
		return Event{}, fmt.Errorf("revision %d.%d: %w", at.main, at.rev().Sub, err)
	}
	e := Event{Rev: at.rev(), Delete: at.tomb()}
	if e.Delete { // the record has the key alone
		f = fields{key: f.key, mod: at.main}
		e.Raw = f.append(make([]byte, 0, f.size()))
	} else {
		e.Raw = append(make([]byte, 0, len(value)), value...)
		e.Create, e.Lease = f.create, f.lease
	}
	if f, err = parse(e.Raw); err != nil {
		return Event{}, err
	}
	e.Key = f.key
	return e, nil
}
