package node

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// TestLogIsLikeRaftsOwn compares with raft.MemoryStorage under random use, and checks
// that what was handed out stays as it was.
func TestLogIsLikeRaftsOwn(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 0))
		ours, theirs := newLog(), raft.NewMemoryStorage()
		var kept [][]raftpb.Entry
		var copies [][]raftpb.Entry
		term := uint64(1)
		for range 200 {
			first, _ := theirs.FirstIndex()
			last, _ := theirs.LastIndex()
			switch rng.IntN(8) {
			case 0, 1, 2, 3:
				from := last + 1
				if rng.IntN(5) == 0 && last >= first {
					from = first + rng.Uint64N(last-first+1) // another leader
					term++
				}
				ents := make([]raftpb.Entry, rng.IntN(400))
				for i := range ents {
					ents[i] = raftpb.Entry{Term: term, Index: from + uint64(i), Data: make([]byte, rng.IntN(9))}
				}
				must(t, theirs.Append(ents))
				must(t, ours.Append(ents))
			case 4:
				if last < first+10 {
					continue
				}
				applied := first + 5 + rng.Uint64N(last-first-5)
				upTo := applied - rng.Uint64N(5)
				conf := raftpb.ConfState{Voters: []uint64{applied}}
				if _, err := theirs.CreateSnapshot(applied, &conf, nil); err != nil {
					continue // older than the last one
				}
				must(t, theirs.Compact(upTo))
				must(t, ours.Compact(applied, conf, upTo))
			case 5:
				if rng.IntN(10) == 0 {
					at := raftpb.SnapshotMetadata{Index: last + rng.Uint64N(5), Term: term}
					if theirs.ApplySnapshot(raftpb.Snapshot{Metadata: at}) == nil {
						ours.Install(at)
					}
				}
			default:
				lo := first + rng.Uint64N(last-first+2) - min(1, rng.Uint64N(20))
				hi := lo + rng.Uint64N(last+2-min(lo, last+1))
				size := rng.Uint64N(5000)
				want, werr := theirs.Entries(lo, max(lo, min(hi, last+1)), size)
				got, err := ours.Entries(lo, max(lo, min(hi, last+1)), size)
				if errors.Is(werr, raft.ErrUnavailable) {
					werr = nil // raft.MemoryStorage says so of an empty log, even for no entries
				}
				if len(got) != len(want) || !errors.Is(err, werr) {
					t.Fatalf("entries [%d,%d): %d, %v; want %d, %v", lo, hi, len(got), err, len(want), werr)
				}
				for i := range got {
					if got[i].Index != want[i].Index || got[i].Term != want[i].Term || len(got[i].Data) != len(want[i].Data) {
						t.Fatalf("entry %d: %v, want %v", lo+uint64(i), got[i], want[i])
					}
				}
				kept, copies = append(kept, got), append(copies, append([]raftpb.Entry(nil), got...))
			}
			compareLogs(t, ours, theirs)
		}
		for i := range kept {
			for j := range kept[i] {
				if a, b := kept[i][j], copies[i][j]; a.Index != b.Index || a.Term != b.Term {
					t.Fatalf("entry %d of term %d, handed out, became %d of term %d", b.Index, b.Term, a.Index, a.Term)
				}
			}
		}
	}
}

func compareLogs(t *testing.T, ours *Log, theirs *raft.MemoryStorage) {
	t.Helper()
	f1, _ := ours.FirstIndex()
	f2, _ := theirs.FirstIndex()
	l1, _ := ours.LastIndex()
	l2, _ := theirs.LastIndex()
	s1, _ := ours.Snapshot()
	s2, _ := theirs.Snapshot()
	all, _ := theirs.Entries(f2, l2+1, 1<<40)
	if ours.Bytes() != dataBytes(all) {
		t.Fatalf("%d bytes, want %d", ours.Bytes(), dataBytes(all))
	}
	if f1 != f2 || l1 != l2 || !cmp.Equal(s1, s2) {
		t.Fatalf("[%d %d] %v, want [%d %d] %v", f1, l1, s1, f2, l2, s2)
	}
	for i := f1 - min(f1, 2); i <= l1+1; i += 1 + (l1-f1)/50 {
		t1, e1 := ours.Term(i)
		t2, e2 := theirs.Term(i)
		if t1 != t2 || !errors.Is(e1, e2) {
			t.Fatalf("term of %d: %d %v, want %d %v", i, t1, e1, t2, e2)
		}
	}
}

func TestLogRefusesGaps(t *testing.T) {
	l := newLog()
	if l.Append([]raftpb.Entry{{Index: 2, Term: 1}}) == nil {
		t.Error("took entry 2 into an empty log")
	}
	if _, err := l.Entries(1, 2, 10); !errors.Is(err, raft.ErrUnavailable) {
		t.Errorf("entries that are not there: %v", err)
	}
}

// TestLogIsBoundedInBytes: large entries do not stay as long as small ones.
func TestLogIsBoundedInBytes(t *testing.T) {
	l := newLog()
	f := &Feeder{log: l, catchUp: 5000, conf: raftpb.ConfState{Voters: []uint64{1}}}
	big := make([]byte, 1<<20)
	for i := uint64(1); i <= 600; i++ {
		must(t, l.Append([]raftpb.Entry{{Index: i, Term: 1, Data: big}}))
		f.applied.Store(i)
		must(t, f.compact())
		if b := l.Bytes(); b > maxLogBytes+int64(len(big)) {
			t.Fatalf("%d MiB after %d entries", b>>20, i)
		}
	}
	if first, _ := l.FirstIndex(); first < 300 || first > 600-100 {
		t.Errorf("entries from %d on stay", first)
	}
}
