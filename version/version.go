// Package version holds the pure rules about versions: of servers, of the cluster
// and of the storage; which step up or down is legal, and what each unlocks.
//
// Three kinds of version exist side by side. A server version is what a member's
// binary is (major.minor.patch). The cluster version is replicated, is never above
// the lowest server version, and has patch 0. The storage version says which
// fields the backend file of one member may hold; it follows the cluster version
// and exists since 3.6.
//
// Nothing here keeps state: the caller brings the facts and carries out the
// answer. The errors are this room's own, because it imports no other; the server
// turns those that a client sees into api errors.
package version

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Version is a version of etcd's protocol and formats. The zero value stands for
// "not known" or "none yet".
type Version struct{ Major, Minor, Patch int }

// The versions that rules name.
var (
	// Current is the server version that we speak.
	Current = V(3, 7, 3)
	// Min is the cluster version of a cluster that has not decided on one, and the
	// lowest that any member accepts.
	Min  = V(3, 0, 0)
	V3_2 = V(3, 2, 0)
	V3_3 = V(3, 3, 0)
	V3_4 = V(3, 4, 0)
	V3_5 = V(3, 5, 0)
	V3_6 = V(3, 6, 0)
	V3_7 = V(3, 7, 0)
)

// V makes a Version.
func V(major, minor, patch int) Version { return Version{major, minor, patch} }

// Parse reads "3.6", "3.6.14" and "3.7.0-rc.1+git"; what follows a dash or plus is
// checked for its letters and dropped.
func Parse(s string) (Version, error) {
	core, ok := cutSuffixes(s)
	parts := strings.Split(core, ".")
	if !ok || len(parts) < 2 || len(parts) > 3 {
		return Version{}, fmt.Errorf("parse version %q: want major.minor or major.minor.patch", s)
	}
	var n [3]int
	for i, p := range parts {
		v, err := number(p)
		if err != nil {
			return Version{}, fmt.Errorf("parse version %q: %w", s, err)
		}
		n[i] = v
	}
	return Version{n[0], n[1], n[2]}, nil
}

// cutSuffixes cuts "-prerelease" and "+metadata" off and tells whether they hold
// only what semantic versioning allows.
func cutSuffixes(s string) (core string, ok bool) {
	core, meta, hasMeta := strings.Cut(s, "+")
	core, pre, hasPre := strings.Cut(core, "-")
	return core, (!hasMeta || identifiers(meta)) && (!hasPre || identifiers(pre))
}

func identifiers(s string) bool {
	for _, id := range strings.Split(s, ".") {
		if id == "" || strings.Trim(id, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-") != "" {
			return false
		}
	}
	return true
}

// number reads a decimal without sign, space or leading zero.
func number(s string) (int, error) {
	if s == "" || len(s) > 9 || strings.Trim(s, "0123456789") != "" || len(s) > 1 && s[0] == '0' {
		return 0, fmt.Errorf("%q is not a number of a version", s)
	}
	return strconv.Atoi(s)
}

// String returns major.minor.patch.
func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

// MinorString returns major.minor.
func (v Version) MinorString() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// IsZero tells whether v is not known.
func (v Version) IsZero() bool { return v == Version{} }

// Compare orders by major, minor and patch: -1, 0 or 1.
func (v Version) Compare(w Version) int {
	return cmp.Or(cmp.Compare(v.Major, w.Major), cmp.Compare(v.Minor, w.Minor), cmp.Compare(v.Patch, w.Patch))
}

// Less tells whether v is below w, patch included.
func (v Version) Less(w Version) bool { return v.Compare(w) < 0 }

// AtLeast tells whether v is w or above, patch included.
func (v Version) AtLeast(w Version) bool { return v.Compare(w) >= 0 }

// Trunc returns v with patch 0, as cluster versions are written.
func (v Version) Trunc() Version { return Version{v.Major, v.Minor, 0} }

// SameMinor tells whether v and w differ in the patch at most.
func (v Version) SameMinor(w Version) bool { return v.Trunc() == w.Trunc() }

// OneBelow tells whether v is exactly one minor below w. Across a change of the
// major nothing is one minor below anything.
func (v Version) OneBelow(w Version) bool { return v.Major == w.Major && v.Minor == w.Minor-1 }

// Lowest returns the lowest of versions, truncated to the minor, and false if
// there is none or one of them is not known: what cannot be seen decides nothing.
func Lowest(versions []Version) (Version, bool) {
	if len(versions) == 0 {
		return Version{}, false
	}
	lowest := versions[0]
	for _, v := range versions {
		if v.IsZero() {
			return Version{}, false
		}
		if v.Less(lowest) {
			lowest = v
		}
	}
	return lowest.Trunc(), true
}

// MarshalText writes a version as String does, and one that is not known as nothing.
func (v Version) MarshalText() ([]byte, error) {
	if v.IsZero() {
		return nil, nil
	}
	return []byte(v.String()), nil
}

// UnmarshalText reads what MarshalText wrote.
func (v *Version) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 {
		*v = Version{}
		return nil
	}
	*v, err = Parse(string(text))
	return err
}
