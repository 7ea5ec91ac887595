package history

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

type call struct {
	q   Request
	a   Answer
	err error
}

func TestLinearizable(t *testing.T) {
	lost := errors.New("no answer")
	put := func(v string, rev int64) call {
		return call{Request{Kind: Put, Key: "k", Value: v}, Answer{Revision: rev}, nil}
	}
	get := func(v string, mod, rev int64) call {
		return call{Request{Kind: Get, Key: "k"}, Answer{Value: v, Found: v != "", Mod: mod, Revision: rev}, nil}
	}
	tests := []struct {
		name  string
		calls []call // one after the other
		bad   bool
	}{
		{"read your write", []call{put("a", 2), get("a", 2, 2)}, false},
		{"stale read", []call{put("a", 2), put("b", 3), get("a", 2, 3)}, true},
		{"lost write", []call{put("a", 2), get("", 0, 2)}, true},
		{"revision goes back", []call{put("a", 5), put("b", 4)}, true},
		{"unknown write seen", []call{{Request{Kind: Put, Key: "k", Value: "x"}, Answer{}, lost}, get("x", 2, 2)}, false},
		{"unknown write not seen", []call{{Request{Kind: Put, Key: "k", Value: "x"}, Answer{}, lost}, get("", 0, 1)}, false},
		{"unknown write seen, then gone", []call{
			{Request{Kind: Put, Key: "k", Value: "x"}, Answer{}, lost}, get("x", 2, 2), get("", 0, 2)}, true},
		{"invented value", []call{put("a", 2), get("z", 2, 2)}, true},
		{"swap wins twice", []call{
			{Request{Kind: Swap, Key: "k", Value: "a"}, Answer{Succeeded: true, Revision: 2}, nil},
			{Request{Kind: Swap, Key: "k", Value: "b"}, Answer{Succeeded: true, Revision: 3}, nil}}, true},
		{"delete twice", []call{put("a", 2),
			{Request{Kind: Delete, Key: "k"}, Answer{Found: true, Revision: 3}, nil},
			{Request{Kind: Delete, Key: "k"}, Answer{Found: true, Revision: 4}, nil}}, true},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			r := NewRecorder()
			for _, c := range tc.calls {
				_, _ = r.Do(0, c.q, func() (Answer, error) { return c.a, c.err })
			}
			if err := r.Linearizable(10 * time.Second); (err != nil) != tc.bad {
				t.Fatalf("got %v, want an error: %v", err, tc.bad)
			}
		})
	}
}

func event(key string, rev int64) *clientv3.Event {
	return &clientv3.Event{Kv: &mvccpb.KeyValue{Key: []byte(key), ModRevision: rev, Value: []byte("v")}}
}

func TestCheckWatch(t *testing.T) {
	good := func() []*Stream {
		return []*Stream{
			{Name: "a", Start: 2, Parts: []Part{
				{Revision: 2, Events: []*clientv3.Event{event("x", 2)}},
				{Revision: 3, Progress: true},
				{Revision: 5, Events: []*clientv3.Event{event("x", 4), event("y", 4), event("x", 5)}},
			}},
			{Name: "b", Start: 4, Parts: []Part{{Revision: 4, Events: []*clientv3.Event{event("x", 4), event("y", 4)}}}},
		}
	}
	tests := []struct {
		name, want string
		change     func(s []*Stream)
	}{
		{"good", "", func([]*Stream) {}},
		{"twice", "unique", func(s []*Stream) { s[0].Parts = append(s[0].Parts, s[0].Parts[2]) }},
		{"order", "ordered", func(s []*Stream) { s[0].Parts[0], s[0].Parts[2] = s[0].Parts[2], s[0].Parts[0] }},
		{"split", "atomic", func(s []*Stream) {
			s[1].Parts = []Part{{Revision: 4, Events: []*clientv3.Event{event("x", 4)}}, {Revision: 4, Events: []*clientv3.Event{event("y", 4)}}}
		}},
		{"hole", "reliable", func(s []*Stream) { s[0].Parts[2].Events = s[0].Parts[2].Events[1:] }},
		{"bookmark", "bookmarkable", func(s []*Stream) { s[0].Parts[1].Revision = 4 }},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			s := good()
			tc.change(s)
			err := CheckWatch(s, map[int64]Request{5: {Kind: Put, Key: "x"}})
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
		})
	}
	if err := CheckWatch(good(), map[int64]Request{5: {Kind: Put, Key: "z"}}); err == nil {
		t.Fatal("an acknowledged write missing from the stream was not noticed")
	}
}
