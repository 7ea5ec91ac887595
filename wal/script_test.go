package wal

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/raft/v3/raftpb"

	"theseus/internal/vfs"
)

// script is one log that a file under testdata/scripts works on.
type script struct {
	fs *vfs.Crash
	o  Options
	w  *WAL
}

// TestScripts runs the files of testdata/scripts. The commands are the methods
// of this package, and dump, files, zero and flip for what they leave on disk.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		s := &script{fs: newDisk(t, 1)}
		s.o = Options{FS: s.fs, SegmentBytes: 1 << 12}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			out, err := s.run(t, d)
			if err != nil {
				return fmt.Sprintf("error: %v\n", err)
			}
			return out
		})
	})
}

func number(t *testing.T, d *datadriven.TestData, key string) uint64 {
	var v uint64
	if d.HasArg(key) {
		d.ScanArgs(t, key, &v)
	}
	return v
}

func (s *script) run(t *testing.T, d *datadriven.TestData) (out string, err error) {
	snapshot := Snapshot{Index: number(t, d, "index"), Term: number(t, d, "term")}
	switch d.Cmd {
	case "create":
		if n := number(t, d, "segment-bytes"); n > 0 {
			s.o.SegmentBytes = int64(n)
		}
		s.w, err = Create(dir, Metadata(0xa, 0xb), s.o)
	case "save":
		var ents []raftpb.Entry
		if n := number(t, d, "entries"); n > 0 {
			ents = entries(snapshot.Term, snapshot.Index, int(n), int(number(t, d, "size")))
		}
		var st raftpb.HardState
		if d.HasArg("commit") {
			st = state(snapshot.Term, number(t, d, "vote"), number(t, d, "commit"))
		}
		err = s.w.Save(st, ents)
	case "snapshot":
		if !d.HasArg("no-conf-state") {
			snapshot.ConfState = voters
		}
		err = s.w.SaveSnapshot(snapshot)
	case "prepare":
		err = s.w.Prepare()
	case "release":
		err = s.w.ReleaseTo(snapshot.Index)
	case "purge":
		var removed []string
		removed, err = s.w.Purge(int(number(t, d, "keep")))
		out = lines(removed)
	case "close":
		err = s.w.Close()
	case "open", "read":
		var c *Contents
		if d.Cmd == "read" {
			c, err = Read(dir, snapshot, s.o)
		} else {
			s.w, c, err = Open(dir, snapshot, s.o)
		}
		out = describe(c)
	case "snapshots":
		var list []Snapshot
		list, err = Snapshots(dir, s.o)
		out = describe(&Contents{Snapshots: list})
	default:
		return s.disk(t, d)
	}
	return out, err
}

// disk runs the commands that look at the files, or damage them.
func (s *script) disk(t *testing.T, d *datadriven.TestData) (out string, err error) {
	seg, at := number(t, d, "segment"), int(number(t, d, "at"))
	segs, err := list(s.fs, dir)
	check(t, err)
	name := filepath.Join(dir, segs[seg].name)
	switch d.Cmd {
	case "dump":
		return dump(t, readFile(t, s.fs, name)), nil
	case "files":
		entries, err := s.fs.ReadDir(dir)
		check(t, err)
		for _, e := range entries {
			info, _ := e.Info()
			out += fmt.Sprintf("%s %d bytes\n", e.Name(), info.Size())
		}
		return out, nil
	case "zero":
		overwrite(t, s.fs, name, int64(at), make([]byte, number(t, d, "bytes")))
	case "flip":
		overwrite(t, s.fs, name, int64(at), []byte{readFile(t, s.fs, name)[at] ^ byte(number(t, d, "mask"))})
	case "cut":
		replace(t, s.fs, name, readFile(t, s.fs, name)[:at])
	default:
		t.Fatalf("unknown command %q", d.Cmd)
	}
	return "", nil
}

func lines(all []string) string {
	if len(all) == 0 {
		return ""
	}
	return strings.Join(all, "\n") + "\n"
}

func describe(c *Contents) string {
	if c == nil {
		return ""
	}
	var b strings.Builder
	if c.State != (raftpb.HardState{}) {
		fmt.Fprintf(&b, "state term=%d vote=%d commit=%d\n", c.State.Term, c.State.Vote, c.State.Commit)
	}
	for _, s := range c.Snapshots {
		fmt.Fprintf(&b, "snapshot index=%d term=%d conf-state=%v\n", s.Index, s.Term, s.ConfState)
	}
	for i := 0; i < len(c.Entries); {
		first := c.Entries[i]
		for i < len(c.Entries) && c.Entries[i].Term == first.Term {
			i++
		}
		fmt.Fprintf(&b, "entries %d to %d of term %d\n", first.Index, c.Entries[i-1].Index, first.Term)
	}
	if r := c.Repaired; r != nil {
		fmt.Fprintf(&b, "repaired %s at byte %d: %s, %d bytes dropped, copy %q\n",
			filepath.Base(r.File), r.Offset, r.What, r.Dropped, filepath.Base(r.Backup))
	}
	return b.String()
}

// dump prints the records of a segment without regard to checksums.
func dump(t *testing.T, b []byte) string {
	var out strings.Builder
	offs := frames(t, b)
	for _, off := range offs[:len(offs)-1] {
		n, _ := parseLength(binary.LittleEndian.Uint64(b[off:]))
		rec, ok := parseRecord(b[off+lengthBytes : off+lengthBytes+n])
		if !ok {
			t.Fatalf("no record at byte %d", off)
		}
		name := []string{"", "metadata", "entry", "state", "crc", "snapshot"}[rec.typ]
		fmt.Fprintf(&out, "%5d len=%d pad=%d %s crc=%08x", off, n, padding(n), name, rec.crc)
		if n := min(len(rec.data), 24); n > 0 {
			fmt.Fprintf(&out, " %x", rec.data[:n])
		}
		out.WriteByte('\n')
	}
	fmt.Fprintf(&out, "%5d end, %d bytes in the file\n", offs[len(offs)-1], len(b))
	return out.String()
}
