package peer

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The bytes of interop A.1, as members of each version write them; to and from are
// 10-byte varints.
const (
	wireTo   = "ef fd fe f7 fe fb fd fe f7 01"
	wireFrom = "81 82 84 88 90 a0 c0 80 81 01"
)

func TestVoteRequestsOfAllVersions(t *testing.T) {
	for name, b := range map[string]string{
		"3.1": "08 05 10 " + wireTo + " 18 " + wireFrom + " 20 02 28 01 30 02 40 00 4a 08 12 06 0a 00 10 00 18 00 50 00 58 00",
		"3.4": "08 05 10 " + wireTo + " 18 " + wireFrom + " 20 02 28 01 30 02 40 00 4a 0a 12 08 0a 02 28 00 10 00 18 00 50 00 58 00",
		"3.6": "08 05 10 " + wireTo + " 18 " + wireFrom + " 20 02 28 01 30 02 40 00 50 00 58 00 68 00",
		"3.7": "08 05 10 " + wireTo + " 18 " + wireFrom + " 20 02 28 01 30 02",
	} {
		raw := unhex(t, b)
		frame := append(unhex(t, "00 00 00 00 00 00 00"), byte(len(raw)))
		var m raftpb.Message
		if err := newMessageDecoder(bytes.NewReader(append(frame, raw...))).next(&m); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		dropEmptySnapshot(&m)
		want := raftpb.Message{Type: raftpb.MsgVote, To: m.To, From: m.From, Term: 2, LogTerm: 1, Index: 2}
		if d := cmp.Diff(want, m); d != "" || m.To == 0 || m.From == 0 {
			t.Errorf("%s: %s", name, d)
		}
		if name != "3.6" {
			continue
		}
		// Ours are those of 3.6, which all versions take.
		got, err := messageEncoder{}.append(nil, &want)
		if err != nil || !bytes.Equal(got, append(frame, raw...)) {
			t.Errorf("encoded %x, %v", got, err)
		}
	}
}

func TestLinkHeartbeats(t *testing.T) {
	for name, b := range map[string]string{
		"3.1": "00 00 00 00 00 00 00 1c 08 08 10 00 18 00 20 00 28 00 30 00 40 00 4a 08 12 06 0a 00 10 00 18 00 50 00 58 00",
		"3.5": "00 00 00 00 00 00 00 1e 08 08 10 00 18 00 20 00 28 00 30 00 40 00 4a 0a 12 08 0a 02 28 00 10 00 18 00 50 00 58 00",
		"3.6": "00 00 00 00 00 00 00 14 08 08 10 00 18 00 20 00 28 00 30 00 40 00 50 00 58 00 68 00",
		"3.7": "00 00 00 00 00 00 00 02 08 08",
	} {
		var m raftpb.Message
		if err := newMessageDecoder(bytes.NewReader(unhex(t, b))).next(&m); err != nil || !isLinkHeartbeat(&m) {
			t.Errorf("%s: %v %v", name, m, err)
		}
	}
	got, _ := messageEncoder{}.append(nil, &linkBeat)
	if want := unhex(t, "00 00 00 00 00 00 00 14 08 08 10 00 18 00 20 00 28 00 30 00 40 00 50 00 58 00 68 00"); !bytes.Equal(got, want) {
		t.Errorf("on a message stream: %x", got)
	}
	if got, _ := new(appEncoder).append(nil, &linkBeat); !bytes.Equal(got, []byte{0}) {
		t.Errorf("on a msgapp stream: %x", got)
	}
	var m raftpb.Message
	if err := newAppDecoder(bytes.NewReader([]byte{0}), 1, 2).next(&m); err != nil || !isLinkHeartbeat(&m) {
		t.Errorf("msgapp: %v %v", m, err)
	}
}

func app(term, logTerm, index, commit uint64, ents ...raftpb.Entry) raftpb.Message {
	return raftpb.Message{Type: raftpb.MsgApp, From: 2, To: 1, Term: term, LogTerm: logTerm, Index: index, Commit: commit, Entries: ents}
}

// TestMsgAppFrames: interop D.5, byte by byte.
func TestMsgAppFrames(t *testing.T) {
	enc := &appEncoder{}
	var got []byte
	msgs := []raftpb.Message{
		app(3, 2, 10, 9, raftpb.Entry{Term: 3, Index: 11, Data: []byte("x")}), // a new term: whole
		app(3, 3, 11, 11), // continues, no entries
		app(3, 3, 11, 11, raftpb.Entry{Term: 3, Index: 12}, raftpb.Entry{Term: 3, Index: 13, Type: raftpb.EntryConfChange, Data: []byte{}}),
		app(3, 3, 12, 13), // an index again: whole
	}
	for i := range msgs {
		var err error
		if got, err = enc.append(got, &msgs[i]); err != nil {
			t.Fatal(err)
		}
	}
	want := unhex(t, `
		02 00 00 00 00 00 00 00 1f  08 03 10 01 18 02 20 03 28 02 30 0a 3a 09 08 00 10 03 18 0b 22 01 78 40 09 50 00 58 00 68 00
		01 00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 0b
		01 00 00 00 00 00 00 00 02  00 00 00 00 00 00 00 06 08 00 10 03 18 0c
		                            00 00 00 00 00 00 00 08 08 01 10 03 18 0d 22 00  00 00 00 00 00 00 00 0b
		02 00 00 00 00 00 00 00 14  08 03 10 01 18 02 20 03 28 03 30 0c 40 0d 50 00 58 00 68 00`)
	if !bytes.Equal(got, want) {
		t.Fatalf("got  %x\nwant %x", got, want)
	}
	dec := newAppDecoder(bytes.NewReader(got), 1, 2)
	for i := range msgs {
		var m raftpb.Message
		if err := dec.next(&m); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(msgs[i], m, cmp.Comparer(func(a, b []byte) bool { return bytes.Equal(a, b) })); d != "" {
			t.Errorf("message %d: %s", i, d)
		}
	}
	var m raftpb.Message
	if err := dec.next(&m); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

// TestEntriesOfAllVersions: members from 3.7 on leave out what is zero.
func TestEntriesOfAllVersions(t *testing.T) {
	for want, b := range map[string]string{
		"3.6":      "08 00 10 03 18 0b 22 01 78",
		"3.7":      "10 03 18 0b 22 01 78",
		"of later": "10 03 18 0b 22 01 78 28 05 32 01 61",
	} {
		var e raftpb.Entry
		if err := decodeEntry(unhex(t, b), &e); err != nil || e.Term != 3 || e.Index != 11 || string(e.Data) != "x" {
			t.Errorf("%s: %+v, %v", want, e, err)
		}
	}
}

// TestAnyMessagesSurvive compares with what was encoded, for messages in any order.
func TestAnyMessagesSurvive(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	enc, b := &appEncoder{}, []byte(nil)
	var msgs []raftpb.Message
	term, index := uint64(1), uint64(1)
	for range 2000 {
		switch rng.IntN(6) {
		case 0:
			term++
		case 1:
			index -= min(index-1, rng.Uint64N(3))
		}
		m := app(term, term-min(term-1, rng.Uint64N(8)/7), index, rng.Uint64N(100))
		for range rng.IntN(4) {
			index++
			m.Entries = append(m.Entries, raftpb.Entry{Term: term, Index: index, Data: make([]byte, rng.IntN(20_000))})
		}
		msgs = append(msgs, m)
		b, _ = enc.append(b, &m)
	}
	dec := newAppDecoder(bytes.NewReader(b), 1, 2)
	for i := range msgs {
		var m raftpb.Message
		if err := dec.next(&m); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		want, _ := msgs[i].Marshal()
		if got, _ := m.Marshal(); !bytes.Equal(got, want) {
			t.Fatalf("message %d: %v became %v", i, msgs[i], m)
		}
	}
}

// TestHostileFrames: an error, no panic, and no memory for what was only announced.
func TestHostileFrames(t *testing.T) {
	whole := "02 00 00 00 00 00 00 00 14 08 03 10 01 18 02 20 03 28 03 30 0c 40 0d 50 00 58 00 68 00 "
	for name, tc := range map[string]struct {
		frames string
		want   error
	}{
		"unknown type":          {"07", errFrameType},
		"nothing to continue":   {"01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00", errFrameState},
		"count without end":     {whole + "01 ff ff ff ff ff ff ff ff", errFrameSize},
		"many entries":          {whole + "01 00 00 00 00 00 10 00 01", errFrameSize},
		"entry without end":     {whole + "01 00 00 00 00 00 00 00 01 ff ff ff ff ff ff ff ff", errFrameSize},
		"large entry, no bytes": {whole + "01 00 00 00 00 00 00 00 01 00 00 00 00 1f ff ff ff 01", io.ErrUnexpectedEOF},
		"bad entry":             {whole + "01 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00 02 ff ff", errEntry},
		"cut in an entry":       {whole + "01 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00 02 08", io.ErrUnexpectedEOF},
		"cut in the commit":     {whole + "01 00 00 00 00 00 00 00 00 00 00", io.ErrUnexpectedEOF},
		"message without end":   {"02 ff ff ff ff ff ff ff ff", errFrameSize},
		"message, no bytes":     {"02 00 00 00 00 1f ff ff ff 08", io.ErrUnexpectedEOF},
		"bad message":           {"02 00 00 00 00 00 00 00 02 ff ff", io.ErrUnexpectedEOF},
	} {
		dec := newAppDecoder(bytes.NewReader(unhex(t, tc.frames)), 1, 2)
		var err error
		for err == nil {
			var m raftpb.Message
			err = dec.next(&m)
		}
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
		if cap(dec.scratch) > 4*growBytes {
			t.Errorf("%s: %d bytes taken", name, cap(dec.scratch))
		}
	}
	for name, frames := range map[string]string{
		"message without end": "ff ff ff ff ff ff ff ff", "cut in the size": "00 00", "bad message": "00 00 00 00 00 00 00 02 ff ff",
	} {
		var m raftpb.Message
		if err := newMessageDecoder(bytes.NewReader(unhex(t, frames))).next(&m); err == nil || err == io.EOF {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func fuzzSeeds(f *testing.F, enc encoder) {
	var b []byte
	for _, m := range []raftpb.Message{
		app(3, 2, 10, 9, raftpb.Entry{Term: 3, Index: 11, Data: []byte("x")}), app(3, 3, 11, 11), linkBeat,
		app(3, 3, 11, 11, raftpb.Entry{Term: 3, Index: 12}, raftpb.Entry{Term: 3, Index: 13, Data: []byte("yz")}),
		{Type: raftpb.MsgVote, From: 1, To: 2, Term: 7, Context: []byte("CampaignTransfer")},
	} {
		b, _ = enc.append(b, &m)
	}
	f.Add(b)
	f.Add([]byte{})
}

// FuzzMsgAppV2: any bytes decode to messages or an error, and messages that were
// decoded survive being encoded.
func FuzzMsgAppV2(f *testing.F) {
	fuzzSeeds(f, &appEncoder{})
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzzStream(t, b, func(r io.Reader) decoder { return newAppDecoder(r, 1, 2) }, &appEncoder{})
	})
}

// FuzzMessageStream does the same for the other stream.
func FuzzMessageStream(f *testing.F) {
	fuzzSeeds(f, messageEncoder{})
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzzStream(t, b, func(r io.Reader) decoder { return newMessageDecoder(r) }, messageEncoder{})
	})
}

func fuzzStream(t *testing.T, b []byte, open func(io.Reader) decoder, enc encoder) {
	dec := open(bytes.NewReader(b))
	var again []byte
	var msgs []raftpb.Message
	for {
		var m raftpb.Message
		if dec.next(&m) != nil {
			break
		}
		proper := app(m.Term, m.LogTerm, m.Index, m.Commit, m.Entries...)
		if _, ok := enc.(*appEncoder); ok && !isLinkHeartbeat(&m) && !cmp.Equal(proper, m) {
			continue // it would not be sent on this stream
		}
		var err error
		if again, err = enc.append(again, &m); err != nil {
			t.Fatalf("cannot encode what was decoded: %v", err)
		}
		msgs = append(msgs, m)
	}
	dec = open(bytes.NewReader(again))
	for i := range msgs {
		var m raftpb.Message
		if err := dec.next(&m); err != nil {
			t.Fatalf("message %d of %d: %v", i, len(msgs), err)
		}
		a, _ := msgs[i].Marshal()
		b, _ := m.Marshal()
		if isLinkHeartbeat(&msgs[i]) && isLinkHeartbeat(&m) {
			continue // all that it says is that the link is there
		}
		if !bytes.Equal(a, b) {
			t.Fatalf("message %d: %v became %v", i, msgs[i], m)
		}
	}
}

func BenchmarkStreams(b *testing.B) {
	m := app(3, 2, 10, 9)
	for i := range 64 {
		m.Entries = append(m.Entries, raftpb.Entry{Term: 3, Index: 11 + uint64(i), Data: make([]byte, 300)})
	}
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		var buf []byte
		for b.Loop() {
			enc := &appEncoder{term: 3, index: 10}
			m.LogTerm = 3
			buf, _ = enc.append(buf[:0], &m)
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		first := app(3, 2, 9, 9, raftpb.Entry{Term: 3, Index: 10})
		enc := &appEncoder{}
		head, _ := enc.append(nil, &first)
		m.LogTerm = 3
		buf, _ := enc.append(head, &m)
		r := bytes.NewReader(buf)
		for b.Loop() {
			r.Reset(buf)
			dec := newAppDecoder(r, 1, 2)
			var out raftpb.Message
			_ = dec.next(&out)
			if err := dec.next(&out); err != nil || len(out.Entries) != 64 {
				b.Fatal(err)
			}
		}
	})
}
