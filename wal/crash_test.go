package wal

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"theseus/internal/vfs"
)

// journal is what a workload asked the log to keep, record by record, and how
// much of it the log has promised to keep.
type journal struct {
	created bool
	steps   []func(c *Contents) // what each record does to the contents
	asked   int                 // records handed over so far
	durable int                 // records that the log has said are durable
}

// after is the contents once the first n records are in the log.
func (j *journal) after(n int) *Contents {
	c := &Contents{Metadata: []byte("meta"), Snapshots: []Snapshot{{}}}
	for _, step := range j.steps[:n] {
		step(c)
	}
	return c
}

// find returns how many of the records asked for the contents are the result of,
// or -1: something was lost, or invented, or out of order.
func (j *journal) find(got *Contents) int {
	for n := j.asked; n >= j.durable; n-- {
		if same(j.after(n), got) {
			return n
		}
	}
	return -1
}

func (j *journal) save(w *WAL, st raftpb.HardState, ents []raftpb.Entry) error {
	last := j.after(j.asked).State
	for _, e := range ents {
		j.steps = append(j.steps, func(c *Contents) { c.Entries = append(c.Entries[:e.Index-1:e.Index-1], e) })
	}
	if st != (raftpb.HardState{}) {
		j.steps = append(j.steps, func(c *Contents) { c.State = st })
	}
	j.asked = len(j.steps)
	err := w.Save(st, ents)
	if err == nil && (len(ents) > 0 || st.Term != last.Term || st.Vote != last.Vote) {
		j.durable = j.asked
	}
	return err
}

func (j *journal) snapshot(w *WAL, index uint64) error {
	s := Snapshot{Index: index, Term: 1, ConfState: voters}
	j.steps = append(j.steps, func(c *Contents) { c.Snapshots = append(c.Snapshots, s) })
	j.asked = len(j.steps)
	err := w.SaveSnapshot(s)
	if err == nil {
		j.durable = j.asked
	}
	return err
}

// workload writes a log that shows everything a member does to one: batches of
// all sizes, commits that are not synced, an overwritten tail, snapshots, new
// segments, prepared or not, a restart. It stops at the first error.
func (j *journal) workload(fs vfs.FS) error {
	o := Options{FS: fs, SegmentBytes: 6000}
	w, err := Create(dir, []byte("meta"), o)
	if err != nil {
		return err
	}
	j.created = true
	index := uint64(1)
	limit := uint64(7) // what is overwritten below must not be committed before
	committed := func() uint64 { return min(index-1, limit) }
	batch := func(term uint64, n, size int) error {
		err := j.save(w, state(term, 1, committed()), entries(term, index, n, size))
		index += uint64(n)
		return err
	}
	reopen := func() (err error) {
		if err = w.Close(); err == nil {
			w, _, err = Open(dir, Snapshot{}, o)
		}
		return err
	}
	commit := func() error { return j.save(w, state(1, 1, committed()), nil) }
	for _, do := range []func() error{
		func() error { return batch(1, 1, 30) },
		commit,
		func() error { return batch(1, 12, 200) }, // several sectors
		func() error { // sectors full of hard states, none of them synced
			for i := range uint64(50) {
				if err := j.save(w, state(1, 1, 1+i%7), nil); err != nil {
					return err
				}
			}
			return nil
		},
		func() error { return batch(1, 1, 600) }, // one record over several sectors
		w.Prepare,
		func() error { return j.save(w, state(1, 1, 5), entries(1, 8, 3, 300)) }, // overwrites
		func() error { index, limit = 11, 1<<60; return commit() },
		func() error { return j.snapshot(w, 9) },
		func() error { return batch(1, 4, 900) }, // cuts
		func() error { return w.ReleaseTo(9) },
		commit,
		func() error { return batch(1, 20, 50) },
		reopen,
		func() error { return batch(1, 8, 700) }, // cuts without a prepared segment
		commit,
		func() error { return j.save(w, state(2, 0, index-1), nil) }, // new term
		func() error { return j.save(w, state(2, 3, index-1), nil) }, // vote
		func() error { return batch(2, 3, 1500) },
		func() error { return batch(2, 3, 1500) },
		func() error { return w.Sync() },
		func() error { return w.Close() },
	} {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// TestCrashEverywhere cuts the power in the middle of every operation of the
// workload, with many outcomes each, and opens the log that is left.
func TestCrashEverywhere(t *testing.T) {
	j, fs := &journal{}, newDisk(t, 0)
	check(t, j.workload(fs))
	total := fs.Ops()
	if segs, err := list(fs, dir); err != nil || len(segs) < 4 {
		t.Fatalf("the workload makes segments %v, %v", segs, err)
	}
	repairs, holes := 0, 0
	for n := range total {
		for seed := range uint64(16) {
			disk := newDisk(t, seed)
			disk.FailAfter(n - 2) // newDisk has used two
			j := &journal{}
			if n >= 2 {
				if err := j.workload(disk); !errors.Is(err, vfs.ErrCrashed) {
					t.Fatalf("operation %d: %v", n, err)
				}
			}
			r := j.recover(t, fmt.Sprintf("operation %d, seed %d", n, seed), disk.Crash())
			if r != nil {
				repairs++
				if r.Dropped > 600 {
					holes++
				}
			}
		}
	}
	if repairs < 50 || holes < 10 {
		t.Fatalf("only %d repairs, %d of them large: the disk is too kind", repairs, holes)
	}
}

// TestCrashInPurge: a crash leaves no hole in the sequence of segments.
func TestCrashInPurge(t *testing.T) {
	for n := range 9 {
		for seed := range uint64(16) {
			fs := newDisk(t, seed)
			o := Options{FS: fs, SegmentBytes: 400}
			w, err := Create(dir, nil, o)
			check(t, err)
			for i := uint64(1); i <= 40; i++ {
				check(t, w.Save(state(1, 1, i), entries(1, i, 1, 100)))
			}
			check(t, w.SaveSnapshot(Snapshot{Index: 40, Term: 1, ConfState: voters}))
			check(t, w.ReleaseTo(40))
			fs.FailAfter(n)
			if _, err := w.Purge(2); !errors.Is(err, vfs.ErrCrashed) {
				t.Fatal(err)
			}
			after := fs.Crash()
			got, err := Snapshots(dir, Options{FS: after})
			if err != nil || len(got) == 0 || got[len(got)-1].Index != 40 {
				t.Fatalf("operation %d, seed %d: snapshots %v, %v", n, seed, got, err)
			}
		}
	}
}

// recover opens the log after a crash, checks what is in it, appends, crashes
// again, and checks once more.
func (j *journal) recover(t *testing.T, what string, fs *vfs.Crash) *Repair {
	t.Helper()
	o := Options{FS: fs, SegmentBytes: 6000}
	if !Exists(fs, dir) {
		if j.created {
			t.Fatalf("%s: the log is gone", what)
		}
		w, err := Create(dir, []byte("meta"), o)
		if err != nil {
			t.Fatalf("%s: create after the crash: %v", what, err)
		}
		check(t, w.Close())
		return nil
	}
	seen, err := Read(dir, Snapshot{}, o)
	if err != nil {
		t.Fatalf("%s: read: %v", what, err)
	}
	w, got, err := Open(dir, Snapshot{}, o)
	if err != nil {
		t.Fatalf("%s: open: %v", what, err)
	}
	if (seen.Repaired == nil) != (got.Repaired == nil) || !same(seen, got) {
		t.Fatalf("%s: Read and Open disagree", what)
	}
	n := j.find(got)
	if n < 0 {
		t.Fatalf("%s: found %d entries, state %+v, %d snapshots: not what the log was asked to keep (%d records, %d durable; want %+v)", what,
			len(got.Entries), got.State, len(got.Snapshots), j.asked, j.durable, j.after(j.durable).State)
	}
	// What is left is the new truth, and going on from it must be safe.
	j.steps, j.asked, j.durable = j.steps[:n:n], n, n
	next := uint64(len(got.Entries) + 1)
	check(t, j.save(w, state(3, 1, next-1), entries(3, next, 2, 400)))
	after := fs.Crash()
	again, err := Read(dir, Snapshot{}, Options{FS: after})
	if err != nil {
		t.Fatalf("%s: after going on: %v", what, err)
	}
	if j.find(again) != j.asked {
		t.Fatalf("%s: what was saved after the crash is not there", what)
	}
	return got.Repaired
}

// TestCrashInRepair cuts the power in the middle of every operation of an Open
// that repairs: the next one finds the same log.
func TestCrashInRepair(t *testing.T) {
	build := func(seed uint64) *vfs.Crash {
		fs := newDisk(t, seed)
		o := Options{FS: fs, SegmentBytes: 6000}
		w, err := Create(dir, []byte("meta"), o)
		check(t, err)
		check(t, w.Save(state(1, 1, 3), entries(1, 1, 10, 100)))
		check(t, w.Save(state(1, 1, 3), entries(1, 11, 10, 100)))
		check(t, w.Close())
		overwrite(t, fs, segmentName(t, fs), 2048, make([]byte, 512)) // as if it was never written
		return fs
	}
	fs := build(0)
	before := fs.Ops()
	w, want, err := Open(dir, Snapshot{}, Options{FS: fs, SegmentBytes: 6000})
	check(t, err)
	ops := fs.Ops() - before
	if want.Repaired == nil || ops < 5 || len(want.Entries) < 10 || len(want.Entries) > 15 {
		t.Fatalf("repair %+v with %d operations leaves %d entries", want.Repaired, ops, len(want.Entries))
	}
	backup := readFile(t, fs, want.Repaired.Backup)
	check(t, w.Close())
	for n := range ops {
		for seed := range uint64(20) {
			fs := build(seed)
			fs.FailAfter(n)
			if _, _, err := Open(dir, Snapshot{}, Options{FS: fs, SegmentBytes: 6000}); !errors.Is(err, vfs.ErrCrashed) {
				t.Fatalf("operation %d: %v", n, err)
			}
			after := fs.Crash()
			w, got, err := Open(dir, Snapshot{}, Options{FS: after, SegmentBytes: 6000})
			if err != nil {
				t.Fatalf("operation %d, seed %d: %v", n, seed, err)
			}
			if !same(got, want) {
				t.Fatalf("operation %d, seed %d: state %+v, %d entries; want %+v, %d", n, seed,
					got.State, len(got.Entries), want.State, len(want.Entries))
			}
			if got.Repaired == nil {
				if !slices.Equal(readFile(t, after, segmentName(t, after)+".broken"), backup) {
					t.Fatalf("operation %d, seed %d: the tail was cut off before its copy was whole", n, seed)
				}
			}
			check(t, w.Close())
		}
	}
}
