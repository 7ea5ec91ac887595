package rpc

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"theseus/api"
)

func txnOp(then, otherwise []*pb.RequestOp) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: then, Failure: otherwise}}}
}

func put(key string) *pb.RequestOp { return opPut(&pb.PutRequest{Key: []byte(key)}) }

func del(key, end string) *pb.RequestOp {
	return opDelete(&pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)})
}

func get(key string) *pb.RequestOp { return opRange(&pb.RangeRequest{Key: []byte(key)}) }

type ops = []*pb.RequestOp

func puts(n int) (o ops) {
	for i := range n {
		o = append(o, put(fmt.Sprint("m", i)))
	}
	return o
}

func compares(n int) (c []*pb.Compare) {
	for range n {
		c = append(c, &pb.Compare{Key: []byte("k")})
	}
	return c
}

// TestCheckRequests is the table of what is refused before a request goes anywhere.
func TestCheckRequests(t *testing.T) {
	k, v := []byte("k"), []byte("v")
	for _, c := range []struct {
		name string
		err  error
		want error
	}{
		{"range", checkRange(&pb.RangeRequest{Key: k, Revision: -5, Limit: -1, RangeEnd: []byte("a")}), nil},
		{"range without key", checkRange(&pb.RangeRequest{RangeEnd: k, SortOrder: 9}), api.ErrEmptyKey},
		{"range, order", checkRange(&pb.RangeRequest{Key: k, SortOrder: 3}), api.ErrInvalidSortOption},
		{"range, negative order", checkRange(&pb.RangeRequest{Key: k, SortOrder: -1}), api.ErrInvalidSortOption},
		{"range, target", checkRange(&pb.RangeRequest{Key: k, SortTarget: 5}), api.ErrInvalidSortOption},
		{"put", checkPut(&pb.PutRequest{Key: k, Value: v, Lease: 1}), nil},
		{"put without key", checkPut(&pb.PutRequest{Value: v, IgnoreValue: true}), api.ErrEmptyKey},
		{"put, value though ignored", checkPut(&pb.PutRequest{Key: k, Value: v, IgnoreValue: true, IgnoreLease: true, Lease: 1}), api.ErrValueProvided},
		{"put, lease though ignored", checkPut(&pb.PutRequest{Key: k, IgnoreLease: true, Lease: 1}), api.ErrLeaseProvided},
		{"put, both ignored", checkPut(&pb.PutRequest{Key: k, IgnoreLease: true, IgnoreValue: true}), nil},
		{"delete", checkDeleteRange(&pb.DeleteRangeRequest{Key: k}), nil},
		{"delete without key", checkDeleteRange(&pb.DeleteRangeRequest{RangeEnd: k}), api.ErrEmptyKey},
		{"stream", checkRangeStream(&pb.RangeRequest{Key: k, SortOrder: pb.RangeRequest_ASCEND}), nil},
		{"stream, order none by version", checkRangeStream(&pb.RangeRequest{Key: k, SortTarget: pb.RangeRequest_VERSION}), nil},
		{"stream, ascending by version", checkRangeStream(&pb.RangeRequest{Key: k, SortOrder: pb.RangeRequest_ASCEND, SortTarget: pb.RangeRequest_VERSION}), errStreamSort},
		{"stream, descending", checkRangeStream(&pb.RangeRequest{Key: k, SortOrder: pb.RangeRequest_DESCEND, MinModRevision: 1}), errStreamSort},
		{"stream, filter", checkRangeStream(&pb.RangeRequest{Key: k, MaxCreateRevision: 1}), errStreamFilters},
		{"stream, bad sort", checkRangeStream(&pb.RangeRequest{Key: k, SortTarget: 9}), api.ErrInvalidSortOption},
	} {
		if c.err != c.want {
			t.Errorf("%s: %v, want %v", c.name, c.err, c.want)
		}
	}
}

// TestCheckTxn is the same for transactions; each line was tried on a real 3.7.
func TestCheckTxn(t *testing.T) {
	for _, c := range []struct {
		name string
		r    *pb.TxnRequest
		want error
	}{
		{"empty", &pb.TxnRequest{}, nil},
		{"128", &pb.TxnRequest{Success: puts(128), Failure: puts(128), Compare: compares(128)}, nil},
		{"129 compares", &pb.TxnRequest{Compare: compares(129)}, api.ErrTooManyOps},
		{"129 then", &pb.TxnRequest{Success: puts(129)}, api.ErrTooManyOps},
		{"129 else", &pb.TxnRequest{Failure: puts(129)}, api.ErrTooManyOps},
		{"nested 127", &pb.TxnRequest{Success: ops{txnOp(puts(127), nil)}}, nil},
		{"nested 128", &pb.TxnRequest{Success: ops{txnOp(puts(128), nil)}}, api.ErrTooManyOps},
		{"compare without key", &pb.TxnRequest{Compare: []*pb.Compare{{}}, Success: ops{{}}}, api.ErrEmptyKey},
		{"nil compare", &pb.TxnRequest{Compare: []*pb.Compare{nil}}, api.ErrEmptyKey},
		{"compare, bad enums", &pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("a"), Target: 9, Result: 9}}}, nil},
		{"op without request", &pb.TxnRequest{Success: ops{{}}}, api.ErrKeyNotFound},
		{"nil op", &pb.TxnRequest{Failure: ops{nil}}, api.ErrKeyNotFound},
		{"nil put", &pb.TxnRequest{Success: ops{opPut(nil)}}, api.ErrKeyNotFound},
		{"nil range", &pb.TxnRequest{Success: ops{opRange(nil)}}, api.ErrKeyNotFound},
		{"nil delete", &pb.TxnRequest{Success: ops{opDelete(nil)}}, api.ErrKeyNotFound},
		{"nil txn", &pb.TxnRequest{Success: ops{{Request: &pb.RequestOp_RequestTxn{}}}}, api.ErrKeyNotFound},
		{"first error counts", &pb.TxnRequest{Success: ops{put(""), {}}}, api.ErrEmptyKey},
		{"range inside", &pb.TxnRequest{Success: ops{opRange(&pb.RangeRequest{Key: []byte("a"), SortTarget: 7})}}, api.ErrInvalidSortOption},
		{"put inside", &pb.TxnRequest{Failure: ops{opPut(&pb.PutRequest{Key: []byte("a"), IgnoreLease: true, Lease: 3})}}, api.ErrLeaseProvided},
		{"delete inside", &pb.TxnRequest{Failure: ops{del("", "")}}, api.ErrEmptyKey},
		{"nested empty key", &pb.TxnRequest{Success: ops{txnOp(nil, ops{put("")})}}, api.ErrEmptyKey},

		{"put twice", &pb.TxnRequest{Success: ops{put("a"), get("a"), put("a")}}, api.ErrDuplicateKey},
		{"put twice, else", &pb.TxnRequest{Failure: ops{put("a"), put("a")}}, api.ErrDuplicateKey},
		{"then and else", &pb.TxnRequest{Success: ops{put("a")}, Failure: ops{put("a")}}, nil},
		{"put and delete", &pb.TxnRequest{Success: ops{put("a"), del("a", "")}}, api.ErrDuplicateKey},
		{"delete and put", &pb.TxnRequest{Success: ops{del("a", "c"), put("b")}}, api.ErrDuplicateKey},
		{"put at the end of a delete", &pb.TxnRequest{Success: ops{del("a", "c"), put("c")}}, nil},
		{"put below a delete", &pb.TxnRequest{Success: ops{del("b", "c"), put("a"), put("d")}}, nil},
		{"two deletes", &pb.TxnRequest{Success: ops{del("a", "c"), del("b", "d")}}, nil},
		{"between joined deletes", &pb.TxnRequest{Success: ops{del("a", "c"), del("b", "d"), put("c")}}, api.ErrDuplicateKey},
		{"empty interval", &pb.TxnRequest{Success: ops{del("b", "a"), put("a"), put("b")}}, nil},
		{"from key on", &pb.TxnRequest{Success: ops{del("b", "\x00"), put("c")}}, nil},
		{"keeps what is deleted", &pb.TxnRequest{Success: ops{del("b", "\x00"), keep("c")}}, api.ErrDuplicateKey},
		{"keeps what all deletes", &pb.TxnRequest{Failure: ops{del("\x00", "\x00"), put("a"), keep("c")}}, api.ErrDuplicateKey},
		{"keeps a lease", &pb.TxnRequest{Success: ops{del("b", "\x00"), opPut(&pb.PutRequest{Key: []byte("b"), IgnoreLease: true})}}, api.ErrDuplicateKey},
		{"keeps what is below", &pb.TxnRequest{Success: ops{del("b", "\x00"), keep("a")}}, nil},
		{"keeps before", &pb.TxnRequest{Success: ops{keep("c"), del("b", "\x00")}}, nil},
		{"keeps in the other branch", &pb.TxnRequest{Success: ops{txnOp(ops{del("b", "\x00")}, ops{keep("c")})}}, nil},
		{"keeps after a branch", &pb.TxnRequest{Success: ops{txnOp(nil, ops{del("b", "\x00")}), keep("c")}}, api.ErrDuplicateKey},
		{"keeps in a branch", &pb.TxnRequest{Success: ops{del("b", "\x00"), txnOp(nil, ops{keep("c")})}}, api.ErrDuplicateKey},
		{"nested puts, nested deletes", &pb.TxnRequest{Success: ops{txnOp(ops{put("a")}, nil), txnOp(ops{del("a", "")}, nil)}}, nil},
		{"nested deletes, nested puts", &pb.TxnRequest{Success: ops{txnOp(ops{del("a", "")}, nil), txnOp(ops{put("a")}, nil)}}, api.ErrDuplicateKey},
		{"put, nested delete", &pb.TxnRequest{Success: ops{put("a"), txnOp(ops{del("a", "")}, nil)}}, api.ErrDuplicateKey},
		{"nested put, delete", &pb.TxnRequest{Success: ops{txnOp(ops{put("a")}, nil), del("a", "")}}, api.ErrDuplicateKey},
		{"nested then and else", &pb.TxnRequest{Success: ops{txnOp(ops{put("a")}, ops{put("a")})}}, nil},
		{"nested then put, else delete", &pb.TxnRequest{Success: ops{txnOp(ops{put("a")}, ops{del("a", "")})}}, nil},
		{"nested else, nested else", &pb.TxnRequest{Success: ops{txnOp(nil, ops{put("a")}), txnOp(nil, ops{put("a")})}}, api.ErrDuplicateKey},
		{"nested then, nested else", &pb.TxnRequest{Success: ops{txnOp(ops{put("a")}, nil), txnOp(nil, ops{put("a")})}}, api.ErrDuplicateKey},
		{"deep", &pb.TxnRequest{Success: ops{txnOp(ops{txnOp(ops{put("a")}, nil)}, nil), put("a")}}, api.ErrDuplicateKey},
	} {
		if err := checkTxn(c.r, 128); err != c.want {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

// keep is a put that keeps the value.
func keep(key string) *pb.RequestOp {
	return opPut(&pb.PutRequest{Key: []byte(key), IgnoreValue: true})
}

// randomOps makes operations over few keys, so that they collide often.
func randomOps(rnd *rand.Rand, depth int) (o ops) {
	key := func() string { return string(rune('a' + rnd.IntN(5))) }
	for range rnd.IntN(4) {
		switch n := rnd.IntN(8); {
		case n < 3:
			o = append(o, put(key()))
		case n < 4:
			o = append(o, del(key(), ""))
		case n < 5:
			o = append(o, del(key(), key()))
		case n < 7 && depth > 0:
			o = append(o, txnOp(randomOps(rnd, depth-1), randomOps(rnd, depth-1)))
		default:
			o = append(o, get(key()))
		}
	}
	return o
}

// The interval set must agree with looking at every interval.
func TestIntervals(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var s intervals
		type pair struct{ from, to string }
		var dumb []pair
		for range rnd.IntN(6) {
			var o intervals
			from, to := string(rune('a'+rnd.IntN(8))), string(rune('a'+rnd.IntN(8)))
			if rnd.IntN(3) == 0 {
				to = ""
			}
			o.add([]byte(from), []byte(to))
			s.join(o)
			s.has("x") // merging in between must not matter
			if to == "" {
				to = from + "\x00"
			}
			dumb = append(dumb, pair{from, to})
		}
		for k := 'a'; k < 'j'; k++ {
			want := slices.ContainsFunc(dumb, func(p pair) bool { return p.from <= string(k) && string(k) < p.to })
			if got := s.has(string(k)); got != want {
				t.Fatalf("%c in %v: %v", k, dumb, got)
			}
		}
	}
}

// A hostile transaction of the largest size must be checked in little time.
func BenchmarkCheckTxnHostile(b *testing.B) {
	var outer ops
	for i := range 42 {
		var middle ops
		for j := range 42 {
			var inner ops
			for k := range 21 {
				inner = append(inner, put(fmt.Sprint("p", i, "/", j, "/", k)), del(fmt.Sprint("d", i, "/", j, "/", k), ""))
			}
			middle = append(middle, txnOp(inner, nil))
		}
		outer = append(outer, txnOp(middle, nil))
	}
	r := &pb.TxnRequest{Success: outer}
	for b.Loop() {
		if err := checkTxn(r, 128); err != nil {
			b.Fatal(err)
		}
	}
}
