// Package must holds assertions: a broken invariant is a bug, and going on would
// write wrong data, so it panics with a sentence that names the invariant.
//
// Cheap assertions are always on ([True]). Costly ones run only in
// builds with the tag "invariants", as make check does ([Hold]).
package must

import "fmt"

// True panics with the formatted message unless ok. The arguments are evaluated
// on every call: keep them cheap.
func True(ok bool, format string, args ...any) {
	if !ok {
		panic("invariant broken: " + fmt.Sprintf(format, args...))
	}
}

// Hold runs check and panics with its error, but only in builds with the tag
// "invariants"; elsewhere it costs a branch on a constant.
func Hold(check func() error) {
	if !Invariants {
		return
	}
	if err := check(); err != nil {
		panic("invariant broken: " + err.Error())
	}
}
