package must

import (
	"errors"
	"testing"
)

func panics(f func()) (said any) {
	defer func() { said = recover() }()
	f()
	return nil
}

func TestTrue(t *testing.T) {
	if said := panics(func() { True(true, "never") }); said != nil {
		t.Errorf("True(true) panicked: %v", said)
	}
	if said := panics(func() { True(1 > 2, "%d is not above %d", 1, 2) }); said != "invariant broken: 1 is not above 2" {
		t.Errorf("True(false) said %v", said)
	}
}

func TestHold(t *testing.T) {
	ran := false
	said := panics(func() { Hold(func() error { ran = true; return errors.New("odd") }) })
	if ran != Invariants || (said != nil) != Invariants {
		t.Errorf("with Invariants=%v the check ran: %v, and said %v", Invariants, ran, said)
	}
}
