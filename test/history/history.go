package history

import (
	"fmt"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// Kind is what a client asked for.
type Kind int

// The requests that the model knows.
const (
	Get    Kind = iota // linearizable read of one key
	Put                // write of one key
	Delete             // delete of one key
	Swap               // put when the key's mod revision is the expected one
)

func (k Kind) String() string { return [...]string{"get", "put", "delete", "swap"}[k] }

// Request is one call.
type Request struct {
	Kind   Kind
	Key    string
	Value  string // put, swap
	Expect int64  // swap: the mod revision it compares with, 0 for "absent"
}

// Answer is what the client was told.
type Answer struct {
	Unknown   bool   // no answer came: it may have happened or not
	Value     string // get
	Found     bool   // get, delete
	Mod       int64  // get: mod revision of what was read
	Succeeded bool   // swap
	Revision  int64  // header revision; for a write that took effect the revision it made
}

// Recorder gathers calls from many clients.
type Recorder struct {
	mu    sync.Mutex
	start time.Time
	ops   []porcupine.Operation
}

// NewRecorder starts an empty history.
func NewRecorder() *Recorder { return &Recorder{start: time.Now()} }

// Do runs one call and records it. call returns an error when no answer came;
// a call that certainly had no effect must be left out by the caller.
func (r *Recorder) Do(client int, q Request, call func() (Answer, error)) (Answer, error) {
	begin := time.Since(r.start)
	a, err := call()
	end := time.Since(r.start)
	if err != nil {
		a = Answer{Unknown: true}
	}
	if err != nil && q.Kind == Get {
		return a, err // a read without an answer tells nothing
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	op := porcupine.Operation{ClientId: client, Input: q, Output: a, Call: int64(begin), Return: int64(end)}
	if a.Unknown {
		op.Return = int64(1 << 62)
	}
	r.ops = append(r.ops, op)
	return a, err
}

// Len returns the number of calls recorded.
func (r *Recorder) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ops)
}

// Acknowledged returns the writes that a client was told had happened, by the
// revision they made.
func (r *Recorder) Acknowledged() map[int64]Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	acked := map[int64]Request{}
	for _, op := range r.ops {
		q, a := op.Input.(Request), op.Output.(Answer)
		wrote := q.Kind == Put || q.Kind == Delete && a.Found || q.Kind == Swap && a.Succeeded
		if wrote && !a.Unknown {
			acked[a.Revision] = q
		}
	}
	return acked
}

// state of one key in the model. Revision 0 with Unsure set means that the
// value was written by a call whose answer never came.
type state struct {
	value  string
	mod    int64
	found  bool
	unsure bool // mod is not known yet
}

// model is one key of etcd: porcupine checks each key by itself.
var model = porcupine.Model{
	Partition: func(ops []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, op := range ops {
			k := op.Input.(Request).Key
			byKey[k] = append(byKey[k], op)
		}
		var parts [][]porcupine.Operation
		for _, p := range byKey {
			parts = append(parts, p)
		}
		return parts
	},
	Init: func() any { return state{} },
	Step: func(s, in, out any) (bool, any) { return step(s.(state), in.(Request), out.(Answer)) },
	DescribeOperation: func(in, out any) string {
		return fmt.Sprintf("%+v -> %+v", in, out)
	},
}

// step says whether the answer can come from the state, and the state after.
func step(s state, q Request, a Answer) (bool, state) {
	switch q.Kind {
	case Get:
		return stepGet(s, a)
	case Put:
		if a.Unknown {
			return true, state{value: q.Value, found: true, unsure: true}
		}
		return a.Revision > s.mod, state{value: q.Value, found: true, mod: a.Revision}
	case Delete:
		if a.Unknown {
			return true, state{mod: s.mod}
		}
		return a.Found == s.found && a.Revision >= s.mod, state{mod: a.Revision}
	default:
		return stepSwap(s, q, a)
	}
}

func stepGet(s state, a Answer) (bool, state) {
	if a.Found != s.found || a.Revision < s.mod {
		return false, s
	}
	if !s.found {
		return true, s
	}
	if s.unsure && a.Value == s.value && a.Mod > s.mod {
		return true, state{value: s.value, mod: a.Mod, found: true}
	}
	return a.Value == s.value && a.Mod == s.mod, s
}

func stepSwap(s state, q Request, a Answer) (bool, state) {
	match := s.found && (s.mod == q.Expect || s.unsure && q.Expect > 0) || !s.found && q.Expect == 0
	if a.Unknown {
		if match {
			return true, state{value: q.Value, found: true, unsure: true}
		}
		return true, s
	}
	if a.Succeeded {
		return match && a.Revision > s.mod, state{value: q.Value, found: true, mod: a.Revision}
	}
	if s.unsure {
		return true, s // the revision it compared with is not known
	}
	return !match, s
}

// Linearizable reports an error when no single order of the calls explains all
// answers, or when that was not decided within the time allowed. Porcupine must
// place every call somewhere; one without an answer may stand at the end of
// time, after every read, which is the same as never.
func (r *Recorder) Linearizable(allowed time.Duration) error {
	r.mu.Lock()
	ops := append([]porcupine.Operation(nil), r.ops...)
	r.mu.Unlock()
	switch porcupine.CheckOperationsTimeout(model, ops, allowed) {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("history of %d calls was not decided within %s", len(ops), allowed)
	default:
		return fmt.Errorf("history of %d calls is not linearizable: %s", len(ops), blame(ops))
	}
}

// blame names the key whose calls cannot be ordered.
func blame(ops []porcupine.Operation) string {
	for _, part := range model.Partition(ops) {
		if !porcupine.CheckOperations(porcupine.Model{Init: model.Init, Step: model.Step}, part) {
			return fmt.Sprintf("key %q", part[0].Input.(Request).Key)
		}
	}
	return "no single key"
}
