package mvcc

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// orchard drives a tree alone, beside a sorted list of all keys ever.
type orchard struct {
	tree    *tree
	entries map[string]*entry
	main    int64
}

// set makes a key live or dead at the next revision.
func (o *orchard) set(key string, live bool) {
	e := o.entries[key]
	if !live && (e == nil || e.head.Load().tomb()) {
		return
	}
	o.main++
	r := &record{stamp: newStamp(Rev{Main: o.main}, !live), create: o.main}
	if e == nil {
		e = &entry{key: key}
		e.head.Store(r)
		o.entries[key] = e
		o.tree.insert(e, o.main)
		return
	}
	old := e.head.Load()
	r.succeeds(old)
	if live && !old.tomb() {
		r.create = old.create
	}
	e.head.Store(r)
	if old.tomb() == live {
		o.tree.setLive(key, o.main, live)
	}
}

// drop takes a dead key out, as a compaction does.
func (o *orchard) drop(key string) {
	if e := o.entries[key]; e != nil && e.head.Load().tomb() {
		o.tree.remove(key)
		delete(o.entries, key)
	}
}

func (o *orchard) keys(iv *interval, rev int64) (in []string) {
	for k, e := range o.entries {
		if k >= iv.from && (!iv.bounded || k < iv.to) && e.head.Load().live(rev) {
			in = append(in, k)
		}
	}
	slices.Sort(in)
	return in
}

func TestTree(t *testing.T) {
	for _, c := range []struct {
		name string
		keys int
		next func(rng *rand.Rand, i int) int
	}{
		{"random", 3000, func(rng *rand.Rand, _ int) int { return rng.IntN(3000) }},
		{"ascending", 100_000, func(_ *rand.Rand, i int) int { return i }},
		{"descending", 100_000, func(_ *rand.Rand, i int) int { return 99_999 - i }},
		{"queue", 100_000, func(rng *rand.Rand, i int) int { return max(i-rng.IntN(300), 0) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			o := &orchard{tree: newTree(), entries: map[string]*entry{}}
			for i := range 8_000 {
				key := fmt.Sprintf("%06d", c.next(rng, i))
				switch n := rng.IntN(10); {
				case n < 6 || c.name == "ascending":
					o.set(key, true)
				case n < 9:
					o.set(key, false)
				default:
					o.drop(key)
				}
				if c.name == "queue" && i > 600 {
					old := fmt.Sprintf("%06d", i-600)
					o.set(old, false)
					o.drop(old)
				}
				if i%997 == 0 {
					o.compare(t, rng, c.keys)
				}
			}
			o.compare(t, rng, c.keys)
			for key := range o.entries { // and down to nothing
				o.set(key, false)
				o.drop(key)
			}
			o.compare(t, rng, c.keys)
			if root := o.tree.root.Load(); root.level != 1 || root.n != 1 {
				t.Errorf("the empty tree has %d levels and %d places", root.level, root.n)
			}
		})
	}
}

func (o *orchard) compare(t *testing.T, rng *rand.Rand, keys int) {
	t.Helper()
	if err := o.tree.check(); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		iv := interval{from: fmt.Sprintf("%06d", rng.IntN(keys)), to: fmt.Sprintf("%06d", rng.IntN(keys)), bounded: rng.IntN(3) > 0}
		if rng.IntN(4) == 0 {
			iv.from = ""
		}
		rev := o.main - rng.Int64N(50)
		want := o.keys(&iv, rev)
		if n := o.tree.count(&iv, rev); n != int64(len(want)) {
			t.Fatalf("count of %+v at %d of %d = %d, want %d", iv, rev, o.main, n, len(want))
		}
		var up, down []string
		o.tree.ascend(&iv, rev, func(l *leaf, marked uint32) bool { up = append(up, l.keys(marked)...); return true })
		if diff := cmp.Diff(want, up); diff != "" {
			t.Fatalf("ascend %+v (-want +got):\n%s", iv, diff)
		}
		o.tree.descend(&iv, rev, func(l *leaf, marked uint32) bool {
			down = append(l.keys(marked), down...)
			return len(down) < 70
		})
		if tail := want[max(0, len(want)-len(down)):]; len(down) < min(70, len(want)) || !slices.Equal(tail, down) {
			diff := cmp.Diff(tail, down)
			t.Fatalf("descend %+v (-want +got):\n%s", iv, diff)
		}
	}
}

func (l *leaf) keys(marked uint32) (keys []string) {
	for i, e := range l.entries[:l.n] {
		if marked>>i&1 == 1 {
			keys = append(keys, e.key)
		}
	}
	return keys
}

func TestTable(t *testing.T) {
	table := newTable()
	rng := rand.New(rand.NewPCG(5, 6))
	in := map[string]*entry{}
	for i := range 60_000 {
		key := []byte(fmt.Sprint(rng.IntN(20_000)))
		tag := table.tag(key)
		e := table.get(tag, key)
		if e != in[string(key)] {
			t.Fatalf("get %q = %p, want %p", key, e, in[string(key)])
		}
		switch {
		case e == nil:
			e = &entry{key: string(key), tag: tag}
			table.add(e)
			in[e.key] = e
		case rng.IntN(3) > 0 || i > 50_000:
			table.remove(e)
			delete(in, e.key)
		}
	}
	for key, e := range in {
		if got := table.get(table.tag([]byte(key)), []byte(key)); got != e {
			t.Fatalf("get %q = %p, want %p", key, got, e)
		}
	}
}

func TestSortEntries(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 9))
	for _, alphabet := range []string{"ab", "\x00\x01a", "abcdefghij"} {
		seen := map[string]bool{}
		var entries []*entry
		for range 5000 {
			n := rng.IntN(30)
			var key strings.Builder
			key.WriteString("/registry/")
			for range n {
				key.WriteByte(alphabet[rng.IntN(len(alphabet))])
			}
			if !seen[key.String()] {
				seen[key.String()] = true
				entries = append(entries, &entry{key: key.String()})
			}
		}
		want := slices.SortedFunc(slices.Values(entries), byKey)
		sortEntries(entries)
		if !slices.Equal(want, entries) {
			t.Errorf("not in order with the letters of %q", alphabet)
		}
	}
}
