package version

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Version
	}{
		{"3.6", V(3, 6, 0)}, {"3.6.14", V(3, 6, 14)}, {"3.0.0", V(3, 0, 0)}, {"10.20.30", V(10, 20, 30)},
		{"3.7.0-rc.1", V(3, 7, 0)}, {"3.8.0-alpha.0+git", V(3, 8, 0)}, {"3.5.0+git.1", V(3, 5, 0)},
	} {
		got, err := Parse(tt.in)
		if err != nil || got != tt.want {
			t.Errorf("Parse(%q) = %v, %v; want %v", tt.in, got, err, tt.want)
		}
	}
	for _, in := range []string{"", "3", "3.", ".6", "3.6.1.2", "3.-6", "+3.6", "3.06", "v3.6", " 3.6", "3.6 ", "3.6-", "3.6+", "3.6-a_b", "3.6-a..b", "3.9999999999"} {
		if got, err := Parse(in); err == nil {
			t.Errorf("Parse(%q) = %v, want an error", in, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("3.6.14")
	f.Add("3.7.0-rc.1+git")
	f.Fuzz(func(t *testing.T, s string) {
		v, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(v.String())
		if err != nil || again != v {
			t.Errorf("Parse(%q) = %v, whose text parses as %v, %v", s, v, again, err)
		}
	})
}

// minors are all minors that exist, and one on each side that does not.
func minors() []Version {
	var all []Version
	for m := range 9 {
		all = append(all, V(3, m, 0))
	}
	return append(all, V(4, 0, 0))
}

func TestCompareEveryPair(t *testing.T) {
	all := minors()
	for i, v := range all {
		for j, w := range all {
			w.Patch = j % 2 // the patch must matter only between equal minors
			want := 0
			switch {
			case i < j || i == j && w.Patch > 0:
				want = -1
			case i > j:
				want = 1
			}
			if got := v.Compare(w); got != want || w.Compare(v) != -want {
				t.Errorf("%v.Compare(%v) = %d, want %d", v, w, got, want)
			}
			if v.Less(w) != (want < 0) || v.AtLeast(w) != (want >= 0) || v.SameMinor(w) != (i == j) {
				t.Errorf("%v against %v: Less, AtLeast or SameMinor disagrees with Compare", v, w)
			}
			if got, want := v.OneBelow(w), i+1 == j && w.Major == 3; got != want {
				t.Errorf("%v.OneBelow(%v) = %v", v, w, got)
			}
		}
	}
}

func TestLowest(t *testing.T) {
	for _, tt := range []struct {
		in    []Version
		want  Version
		known bool
	}{
		{nil, Version{}, false},
		{[]Version{V(3, 7, 3)}, V3_7, true},
		{[]Version{V(3, 7, 3), V(3, 5, 33), V(3, 6, 1)}, V3_5, true},
		{[]Version{V(3, 7, 3), {}, V(3, 6, 1)}, Version{}, false},
		{[]Version{{}}, Version{}, false},
	} {
		if got, known := Lowest(tt.in); got != tt.want || known != tt.known {
			t.Errorf("Lowest(%v) = %v, %v", tt.in, got, known)
		}
	}
}

// TestDecideEveryPair goes over every cluster version, lowest server version and
// role, without a downgrade, against the words of interop 9.2.
func TestDecideEveryPair(t *testing.T) {
	for c := range 9 {
		for l := range 9 {
			for r := 1; r < 8; r++ {
				f := Facts{Cluster: V(3, c, 0), Servers: []Version{V(3, 8, 9), V(3, l, 4)}, Role: V(3, r, 0)}
				want := l > c || r == 5 && l == c-1
				got, ok := Decide(f)
				if ok != want || ok && got != V(3, l, 0) {
					t.Errorf("role 3.%d, cluster 3.%d, lowest 3.%d: proposes %v %v", r, c, l, got, ok)
				}
				f.Servers = append(f.Servers, Version{})
				if got, ok := Decide(f); ok {
					t.Errorf("role 3.%d, cluster 3.%d, lowest 3.%d, one unknown: proposes %v", r, c, l, got)
				}
			}
		}
	}
}

func TestDecideFirst(t *testing.T) {
	if got, ok := Decide(Facts{Servers: []Version{V(3, 7, 3), V(3, 4, 1)}}); !ok || got != V3_4 {
		t.Errorf("no cluster version, all known: %v %v, want the lowest", got, ok)
	}
	if got, ok := Decide(Facts{Servers: []Version{V(3, 7, 3), {}}}); !ok || got != Min {
		t.Errorf("no cluster version, one unknown: %v %v, want 3.0.0", got, ok)
	}
}

func TestDecideDowngradeEveryPair(t *testing.T) {
	for c := range 9 {
		for l := range 9 {
			for target := range 9 {
				f := Facts{
					Cluster: V(3, c, 0), Servers: []Version{V(3, l, 4), V(3, 8, 0)},
					Downgrade: Downgrade{Enabled: true, Target: V(3, target, 0)},
				}
				want := target < c && l >= c-1 // one minor at a time, and no member below it
				got, ok := Decide(f)
				if ok != want || ok && got != V(3, c-1, 0) {
					t.Errorf("cluster 3.%d, lowest 3.%d, target 3.%d: proposes %v %v", c, l, target, got, ok)
				}
				one := Facts{Servers: f.Servers[:1], Downgrade: f.Downgrade}
				if got := DowngradeDone(one); got != (l == target) {
					t.Errorf("servers at 3.%d, target 3.%d: done = %v", l, target, got)
				}
				if DowngradeDone(f) != (l == target && target == 8) {
					t.Errorf("servers at 3.%d and 3.8, target 3.%d: done", l, target)
				}
			}
		}
	}
	unknown := Facts{Servers: []Version{V3_6, {}}, Downgrade: Downgrade{Enabled: true, Target: V3_6}}
	if DowngradeDone(unknown) || DowngradeDone(Facts{Servers: []Version{V3_6}}) || DowngradeDone(Facts{Downgrade: unknown.Downgrade}) {
		t.Error("a downgrade is done with an unknown member, without a job, or without members")
	}
}

func TestValidateDowngradeEveryPair(t *testing.T) {
	for c := range 9 {
		for target := range 9 {
			for _, text := range []string{fmt.Sprintf("3.%d", target), fmt.Sprintf("3.%d.0", target), fmt.Sprintf("3.%d.7", target)} {
				far, err := ValidateDowngrade(V(3, c, 0), text, Downgrade{}, true)
				if ok := target < c && target >= 4; ok != (err == nil) || ok && far != V(3, target, 0) {
					t.Errorf("cluster 3.%d of Theseus to %s: %v, %v", c, text, far, err)
				}
				got, err := ValidateDowngrade(V(3, c, 0), text, Downgrade{}, false)
				if target == c-1 && target >= 5 {
					if err != nil || got != V(3, target, 0) {
						t.Errorf("cluster 3.%d to %s: %v, %v", c, text, got, err)
					}
				} else if !errors.Is(err, ErrDowngradeTarget) && !errors.Is(err, ErrDowngradeFar) {
					t.Errorf("cluster 3.%d to %s: error %v", c, text, err)
				}
			}
		}
	}
	running := Downgrade{Enabled: true, Target: V3_6}
	for _, tt := range []struct {
		cluster Version
		target  string
		want    error
	}{
		{Version{}, "3.6", ErrClusterVersionUnset},
		{Version{}, "x", ErrClusterVersionUnset},
		{V3_7, "x", ErrDowngradeFormat},
		{V3_7, "3", ErrDowngradeFormat},
		{V3_7, "3.5", ErrDowngradeFar},
		{V3_7, "3.3", ErrDowngradeTarget},
		{V3_7, "3.6", ErrDowngradeInProcess},
		{V(4, 0, 0), "3.7", ErrDowngradeTarget},
	} {
		if _, err := ValidateDowngrade(tt.cluster, tt.target, running, false); !errors.Is(err, tt.want) {
			t.Errorf("ValidateDowngrade(%v, %q) = %v, want %v", tt.cluster, tt.target, err, tt.want)
		}
	}
}

func TestCheckServerEveryPair(t *testing.T) {
	for s := range 9 {
		for c := range 9 {
			err := CheckServer(V(3, s, 2), V(3, c, 0))
			if (err != nil) != (s < c) {
				t.Errorf("server 3.%d at cluster 3.%d: %v", s, c, err)
			}
		}
		if err := CheckServer(V(3, s, 0), Version{}); err != nil {
			t.Errorf("server 3.%d without a cluster version: %v", s, err)
		}
	}
}

func TestDetectStorage(t *testing.T) {
	for _, tt := range []struct {
		text string
		term uint64
		want Version
		err  error
	}{
		{"3.6.0", 0, V3_6, nil}, {"3.7.0", 9, V3_7, nil}, {"", 1, V3_5, nil}, {"", 0, Version{}, ErrStorageUnknown},
	} {
		got, err := DetectStorage(tt.text, tt.term)
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("DetectStorage(%q, %d) = %v, %v", tt.text, tt.term, got, err)
		}
	}
	if _, err := DetectStorage("three", 1); err == nil {
		t.Error("a storage version that is no version was accepted")
	}
}

func TestStorageEveryPair(t *testing.T) {
	text := map[Version]string{V3_5: "", V3_6: "3.6.0", V3_7: "3.7.0"}
	for from := range 9 {
		for to := range 9 {
			f, w := V(3, from, 3), V(3, to, 0)
			err := CheckStorage(f, w)
			if (err != nil) != (from > to) {
				t.Errorf("CheckStorage(%v, %v) = %v", f, w, err)
			}
			steps, err := StorageSteps(f, w, Min)
			legal := from >= 5 && from <= 7 && to >= 5 && to <= 7
			if (err == nil) != legal {
				t.Errorf("StorageSteps(%v, %v) = %v", f, w, err)
				continue
			}
			at := f.Trunc()
			for _, s := range steps {
				if s.From != at || !s.To.OneBelow(at) && !at.OneBelow(s.To) || s.StorageVersion != text[s.To] {
					t.Errorf("StorageSteps(%v, %v) has the odd step %+v", f, w, s)
				}
				at = s.To
			}
			if legal && (at != w || len(steps) != max(from-to, to-from)) {
				t.Errorf("StorageSteps(%v, %v) = %v ends at %v", f, w, steps, at)
			}
		}
	}
	if err := CheckStorage(V3_7, V3_6); err == nil || err.Error() != `version "3.7.0" is not supported` {
		t.Errorf("3.6 on a file of 3.7 says: %v", err)
	}
}

func TestStorageStepsWAL(t *testing.T) {
	for _, tt := range []struct {
		from, to, wal Version
		err           error
	}{
		{V3_7, V3_6, V3_5, nil}, {V3_7, V3_5, V3_5, nil}, {V3_7, V3_6, V3_6, nil},
		{V3_7, V3_5, V3_6, ErrWALNewer}, {V3_6, V3_5, V3_6, ErrWALNewer}, {V3_5, V3_7, V3_7, nil}, {V3_6, V3_6, V3_7, nil},
	} {
		if _, err := StorageSteps(tt.from, tt.to, tt.wal); !errors.Is(err, tt.err) {
			t.Errorf("StorageSteps(%v, %v, %v) = %v, want %v", tt.from, tt.to, tt.wal, err, tt.err)
		}
	}
}

func TestMigrationTarget(t *testing.T) {
	for _, tt := range []struct {
		storage, cluster, want Version
		ok                     bool
	}{
		{V3_6, V3_7, V3_7, true}, {V3_7, V3_6, V3_6, true}, {V3_6, V3_6, V3_6, false},
		{V3_5, Min, Version{}, false}, {Version{}, V3_7, Version{}, false}, {V3_6, Version{}, Version{}, false},
	} {
		if got, ok := MigrationTarget(tt.storage, tt.cluster); got != tt.want || ok != tt.ok {
			t.Errorf("MigrationTarget(%v, %v) = %v, %v", tt.storage, tt.cluster, got, ok)
		}
	}
}

func TestByMinor(t *testing.T) {
	type row struct{ learner, hashed, many, v2, persist, term bool }
	want := map[int]row{
		3: {v2: true}, 4: {learner: true, v2: true},
		5: {learner: true, hashed: true, term: true},
		6: {learner: true, hashed: true, many: true, persist: true, term: true},
		7: {learner: true, hashed: true, many: true, persist: true, term: true},
	}
	for minor, w := range want {
		v := V(3, minor, 1)
		got := row{
			Learner.Allowed(v), HashedPassword.Allowed(v), ManyLearners.Allowed(v),
			ProposeV2(v), PersistCheckpoint(v), LayoutOf(v) == Layout{true, true},
		}
		if d := cmp.Diff(w, got, cmp.AllowUnexported(row{})); d != "" {
			t.Errorf("3.%d: %s", minor, d)
		}
	}
	for f := range Feature(len(since)) {
		if f.Since().IsZero() || f.Allowed(Version{}) || !f.Allowed(Current) {
			t.Errorf("feature %d has no minor, or its gate is open to the unknown or shut to us", f)
		}
	}
	if ProposeV2(Version{}) || LayoutOf(Version{}) != (Layout{true, true}) {
		t.Error("a cluster of ours is born with the forms of 3.4")
	}
}

func TestText(t *testing.T) {
	for _, v := range []Version{{}, V(3, 4, 45), V(10, 0, 0)} {
		text, err := v.MarshalText()
		var got Version
		if err == nil {
			err = got.UnmarshalText(text)
		}
		if err != nil || got != v {
			t.Errorf("%v became %q and %v: %v", v, text, got, err)
		}
	}
}
