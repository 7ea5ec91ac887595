package watch

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestIndex checks the index against looking at every watcher.
func TestIndex(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	x := newIndex()
	var all []*watcher
	point := func() string { return string("abc"[r.IntN(3)]) + string("xyz"[r.IntN(3)])[:r.IntN(2)] }
	for range 20000 {
		switch {
		case r.IntN(5) < 2:
			w := &watcher{spec: spec{key: point(), flags: flags(r.IntN(8))}}
			switch r.IntN(3) {
			case 0:
				w.spec.toEnd = true
			case 1:
				if w.spec.end = point(); w.spec.end <= w.spec.key {
					continue
				}
			}
			x.add(w, w.spec)
			all = append(all, w)
		case len(all) > 0 && r.IntN(3) == 0:
			i := r.IntN(len(all))
			x.remove(all[i])
			all = slices.Delete(all, i, i+1)
		default:
			key := point()
			want, got := map[*watcher]bool{}, map[*watcher]bool{}
			for _, w := range all {
				s := w.spec
				want[w] = s.key == key && s.end == "" || s.key <= key && (s.toEnd || key < s.end)
			}
			for _, g := range x.match(nil, []byte(key)) {
				for _, w := range g.watchers {
					if got[w] {
						t.Fatalf("key %s: %v is found twice", key, w.spec)
					}
					got[w] = true
				}
			}
			for w, in := range want {
				if got[w] != in {
					t.Fatalf("key %s: %v is found: %v", key, w.spec, got[w])
				}
			}
		}
		if x.count != len(all) {
			t.Fatalf("the index counts %d watchers of %d", x.count, len(all))
		}
	}
}

func depth(n *node) int {
	if n == nil {
		return 0
	}
	return 1 + max(depth(n.left), depth(n.right))
}

// TestTreeDepth adds ranges in order, which would make a list of a plain tree.
func TestTreeDepth(t *testing.T) {
	var tr tree
	for i := range 10000 {
		tr.add(&group{spec: spec{key: fmt.Sprintf("%06d", i), end: fmt.Sprintf("%06d", i+1)}})
	}
	if d := depth(tr.root); d > 60 {
		t.Errorf("10,000 ranges make a tree of depth %d", d)
	}
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{1, 1000, 100000} {
		b.Run(fmt.Sprint(n, "ranges"), func(b *testing.B) {
			x := newIndex()
			for i := range n {
				k := fmt.Sprintf("/registry/%06d/", i)
				x.add(&watcher{}, spec{key: k, end: k[:len(k)-1] + "0"})
				x.add(&watcher{}, spec{key: k + "one"})
			}
			key := []byte(fmt.Sprintf("/registry/%06d/one", n/2))
			var out []*group
			b.ReportAllocs()
			for b.Loop() {
				if out = x.match(out[:0], key); len(out) != 2 {
					b.Fatal(len(out))
				}
			}
		})
	}
}
