package upgrade

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"theseus/internal/vfs"
	"theseus/upgrade/plan"
)

var rewriteJournal = flag.Bool("rewrite-journal", false, "write the golden journal again")

// goldenRecords are one of each kind, as a run writes them.
func goldenRecords() []record {
	at := time.Date(2026, 11, 21, 13, 9, 51, 885e6, time.UTC)
	recs := []record{
		{Kind: recBegin, Plan: planHash([]byte("{}\n")), Broken: []string{"s4"}},
		{Kind: recIntent, Step: "01-s1-stage"}, {Kind: recDone, Step: "01-s1-stage", Text: "3.7.3"},
		{Kind: recIntent, Step: "02-s1-ready"}, {Kind: recFailed, Step: "02-s1-ready", Text: "s1 ended right after its start"},
		{Kind: recBack, Cause: "02-s1-ready", Text: "s1 ended right after its start", Undoes: map[string][]string{"u5-1-s1-ready": {"02-s1-ready"}},
			Steps: []plan.Step{{ID: "u5-1-s1-ready", Kind: plan.Ready, Member: "s1", Why: "it serves again as before", WayBack: plan.SwapBack}}},
		{Kind: recBacked}, {Kind: recResume, Text: "apply"}, {Kind: recYes, Step: "03-lower"}, {Kind: recEnd, Text: ended},
	}
	for i := range recs {
		recs[i].V, recs[i].Seq, recs[i].Time = journalFormat, i+1, at.Add(time.Duration(i)*time.Second)
	}
	return recs
}

func encodeAll(t testing.TB, recs []record) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, r := range recs {
		line, err := encodeRecord(r)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(line)
	}
	return b.Bytes()
}

// TestJournal_golden keeps the format: a run that one release began, another one ends.
func TestJournal_golden(t *testing.T) {
	file := filepath.Join("testdata", "journal", "v1.jsonl")
	text := encodeAll(t, goldenRecords())
	if *rewriteJournal {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(text)); diff != "" {
		t.Error(diff)
	}
	recs, good, err := decodeJournal(want)
	if err != nil || good != len(want) {
		t.Fatalf("%d of %d bytes: %v", good, len(want), err)
	}
	if diff := cmp.Diff(goldenRecords(), recs); diff != "" {
		t.Error(diff)
	}
}

// TestJournal_torn cuts the journal at every byte: what is before the cut is read, and
// nothing is made up.
func TestJournal_torn(t *testing.T) {
	text := encodeAll(t, goldenRecords())
	for cut := range len(text) {
		torn := append(bytes.Clone(text[:cut]), make([]byte, cut%3)...)
		recs, good, err := decodeJournal(torn)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if want := bytes.LastIndexByte(text[:cut], '\n') + 1; good != want || len(recs) != bytes.Count(text[:cut], []byte("\n")) {
			t.Fatalf("cut at %d: %d good bytes, want %d", cut, good, want)
		}
	}
}

// TestJournal_damaged changes every byte: it is found, or it was in the last line.
func TestJournal_damaged(t *testing.T) {
	text := encodeAll(t, goldenRecords())
	last := bytes.LastIndexByte(text[:len(text)-1], '\n') + 1
	for at := range text {
		bad := bytes.Clone(text)
		bad[at] ^= 0x20
		recs, _, err := decodeJournal(bad)
		if at < last && err == nil {
			t.Fatalf("byte %d: %d records are read from a damaged journal", at, len(recs))
		}
		if at >= last && (err != nil || len(recs) != len(goldenRecords())-1) {
			t.Fatalf("byte %d of the last line: %d records, %v", at, len(recs), err)
		}
	}
}

func TestJournal_lockAndPlan(t *testing.T) {
	fs := vfs.NewCrash(1)
	j, err := openJournal(fs, "/a/b/state")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openJournal(fs, "/a/b/state"); !errors.Is(err, errBusy) {
		t.Fatalf("a second run got in: %v", err)
	}
	p := plan.Plan{Format: 1, Cluster: "c", Steps: []plan.Step{{ID: "01-gate", Kind: plan.Gate}}}
	if err := j.begin(p, nil); err != nil {
		t.Fatal(err)
	}
	if err := j.reserve(); err != nil {
		t.Fatal(err)
	}
	if err := j.append(record{Kind: recIntent, Step: "01-gate"}); err != nil {
		t.Fatal(err)
	}
	fs = fs.Crash() // the power fails: every record that was appended is there
	if j, err = openJournal(fs, "/a/b/state"); err != nil {
		t.Fatal(err)
	}
	if len(j.recs) != 2 || j.recs[1].Step != "01-gate" {
		t.Fatalf("records %+v", j.recs)
	}
	got, err := j.plan()
	if err != nil || got.Cluster != "c" {
		t.Fatalf("plan %+v: %v", got, err)
	}
	j.close()
	if err := vfs.WriteFileAtomic(fs, "/a/b/state/plan.json", []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if j, err = openJournal(fs, "/a/b/state"); err != nil {
		t.Fatal(err)
	}
	defer j.close()
	if _, err := j.plan(); err == nil || !strings.Contains(err.Error(), "not the plan that this run began with") {
		t.Errorf("a changed plan: %v", err)
	}
}

func FuzzDecodeJournal(f *testing.F) {
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		recs, good, err := decodeJournal(data)
		if err != nil {
			return
		}
		if good > len(data) {
			t.Fatalf("%d good bytes of %d", good, len(data))
		}
		_ = replay(recs) // must not panic, whatever the records say
		again, n, err := decodeJournal(data[:good])
		if err != nil || n != good || len(again) != len(recs) {
			t.Fatalf("the good part reads as %d records of %d bytes: %v", len(again), n, err)
		}
	})
}
