package mvcc

// room is the memory for values: how much of it is taken, and whose turn it is to
// give some back. It belongs to the writer.
type room struct {
	budget, taken int64
	hand          string // the clock's hand: entries before it have been looked at
}

// roomLooks bounds how many entries one transaction looks at to make room.
const roomLooks = 512

// makeRoom lets values go until the budget holds: those that no reader used since the
// hand came by last. They are read from the file from then on, until the key is
// written again.
func (s *Store) makeRoom() {
	r := &s.room
	if tight := r.taken > r.budget-r.budget/4; tight != s.tight.Load() {
		s.tight.Store(tight)
	}
	for looks := 0; looks < roomLooks && r.taken > r.budget; {
		c := s.tree.seek(r.hand)
		for ; c.leaf != nil && looks < roomLooks && r.taken > r.budget; c.next() {
			l := c.leaf
			for _, e := range l.entries[:l.n] {
				s.drop(e)
			}
			looks += leafKeys
			if l.n > 0 {
				r.hand = l.entries[l.n-1].key + "\x00"
			}
		}
		if c.leaf == nil {
			r.hand = "" // round again
		}
	}
}

// drop lets the value of one entry go, unless it was used.
func (s *Store) drop(e *entry) {
	old := e.head.Load()
	if old.raw == nil || s.room.taken <= s.room.budget || s.room.budget > 0 && e.used.Swap(false) {
		return
	}
	bare := *old
	bare.raw = nil
	e.head.Store(&bare)
	s.room.taken -= int64(len(old.raw))
}
