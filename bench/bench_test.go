package bench

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// TestPrint holds the direction of the ratio for both kinds of figures, and
// that the better etcd is the one compared with.
func TestPrint(t *testing.T) {
	r := &run{o: options{against: []string{"3.5", "3.7"}, rounds: 3, length: time.Second}, results: map[string]map[string][]sample{}}
	for i, s := range []sample{{perSecond: 100, p50: 4 * time.Millisecond}, {perSecond: 300, p50: 2 * time.Millisecond}, {perSecond: 200, p50: 3 * time.Millisecond}} {
		r.add("put", "theseus", s)
		r.add("put", "etcd 3.5", sample{perSecond: 100, p50: 6 * time.Millisecond})
		r.add("put", "etcd 3.7", sample{perSecond: 50 + float64(i), p50: 9 * time.Millisecond})
	}
	var b bytes.Buffer
	r.print(&b)
	got := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{"| put | /s | 200 | 100 | 51 | 2.00 |", "| put | p50 ms | 3.00 | 6.00 | 9.00 | 2.00 |"} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in\n%s", want, b.String())
		}
	}
}

func TestSummarise(t *testing.T) {
	var all []time.Duration
	for i := 100; i > 0; i-- {
		all = append(all, time.Duration(i))
	}
	s := summarise(all, time.Second, 200)
	if s.p50 != 51 || s.p99 != 100 || s.perSecond != 100 || s.cpu != 2 {
		t.Fatalf("%+v", s)
	}
}
