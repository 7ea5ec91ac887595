package machine

import (
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"

	"theseus/api"
)

// call is one request while it is applied.
type call struct {
	index uint64
	mine  bool
	// The header: who asks, at which revision of the auth store.
	id   uint64
	user string
	rev  uint64

	field protowire.Number // of InternalRaftRequest
	body  []byte           // the encoded request
	res   Result
}

// envelope reads the parts of an InternalRaftRequest that surround the body. It
// stays with the bytes: the body is decoded once, by the one who knows its type.
func (c *call) envelope(data []byte) error {
	var unknown []protowire.Number
	for rest := data; len(rest) > 0; {
		num, typ, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return protowire.ParseError(n)
		}
		size := protowire.ConsumeFieldValue(num, typ, rest[n:])
		if size < 0 {
			return protowire.ParseError(size)
		}
		value := rest[n : n+size]
		rest = rest[n+size:]
		switch {
		case num == 1 && typ == protowire.VarintType:
			if c.id == 0 {
				c.id, _ = protowire.ConsumeVarint(value)
			}
		case num == api.FieldHeader && typ == protowire.BytesType:
			header, _ := protowire.ConsumeBytes(value)
			if err := c.header(header); err != nil {
				return err
			}
		case typ == protowire.BytesType && handlerOf(num) != nil:
			body, _ := protowire.ConsumeBytes(value)
			if err := c.take(num, body); err != nil {
				return err
			}
		default:
			unknown = append(unknown, num)
		}
	}
	if c.field == 0 {
		return fmt.Errorf("it holds no request that this version knows, but %s; a newer etcd has proposed it: run a version that knows it", fields(unknown))
	}
	return nil
}

// take notes the body. A second one of the same kind is merged, as protobuf does; of
// two kinds etcd would carry out one, and which is not written anywhere.
func (c *call) take(num protowire.Number, body []byte) error {
	switch c.field {
	case 0:
		c.field, c.body = num, body
	case num:
		c.body = slices.Concat(c.body, body)
	default:
		return fmt.Errorf("it holds two requests, fields %d and %d", c.field, num)
	}
	return nil
}

func (c *call) header(b []byte) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		size := protowire.ConsumeFieldValue(num, typ, b[n:])
		if size < 0 {
			return protowire.ParseError(size)
		}
		value := b[n : n+size]
		b = b[n+size:]
		switch {
		case num == 1 && typ == protowire.VarintType:
			c.id, _ = protowire.ConsumeVarint(value)
		case num == 2 && typ == protowire.BytesType:
			name, _ := protowire.ConsumeBytes(value)
			c.user = string(name)
		case num == 3 && typ == protowire.VarintType:
			c.rev, _ = protowire.ConsumeVarint(value)
		}
	}
	return nil
}

func fields(nums []protowire.Number) string {
	if len(nums) == 0 {
		return "nothing"
	}
	text := make([]string, 0, len(nums))
	for _, n := range nums {
		text = append(text, fmt.Sprint(n))
	}
	return "field " + strings.Join(text, ", ")
}

// Apply runs one committed entry. mine: this member proposed it and a caller waits.
// The entry's data must not change afterwards. It must be called within a unit, with
// the entry that follows the last one.
func (m *Machine) Apply(e raftpb.Entry, mine bool) Result {
	if !m.open {
		panic("machine: Apply outside of a unit")
	}
	if m.fatal != nil {
		return Result{Fatal: m.fatal}
	}
	if err := m.follows(e); err != nil {
		return m.stop(err)
	}
	if e.Index <= m.stored {
		return m.replay(e)
	}
	if m.replaying {
		if err := m.members.Rewrite(); err != nil {
			return m.stop(fmt.Errorf("rewrite membership before entry %d: %w", e.Index, err))
		}
		m.replaying = false
	}
	m.call = call{index: e.Index, mine: mine}
	if err := m.dispatch(&m.call, e); err != nil {
		return m.stop(err)
	}
	m.stored, m.storedTerm, m.moved = e.Index, e.Term, true
	m.position.set(e.Index, e.Term)
	return m.call.res
}

// follows refuses a log with a hole in it.
func (m *Machine) follows(e raftpb.Entry) error {
	last, _ := m.Applied()
	if e.Index <= last || e.Index > last+1 && last != 0 {
		return fmt.Errorf("entry %d (term %d) was handed to the state machine after entry %d: the log has a hole or is out of order", e.Index, e.Term, last)
	}
	return nil
}

// stop is for what must not be guessed. The unit ends as of the entry before.
func (m *Machine) stop(err error) Result {
	m.fatal = err
	return Result{Fatal: err}
}

// dispatch tells the kinds of entries apart. An error is fatal; what a caller is to
// be told stands in the result.
func (m *Machine) dispatch(c *call, e raftpb.Entry) error {
	switch {
	case e.Type == raftpb.EntryConfChange:
		return m.confChange(c, e)
	case e.Type != raftpb.EntryNormal:
		return fmt.Errorf("apply entry %d (term %d): its type is %d, which no etcd writes", e.Index, e.Term, e.Type)
	case len(e.Data) == 0:
		c.effect(TermStarted{Term: e.Term})
		return nil
	}
	kind, err := api.Classify(e.Data)
	if err == nil && kind == api.Internal {
		err = m.internal(c, e.Data)
	} else if err == nil {
		err = m.legacy(c, e.Data)
	}
	if err != nil {
		return fmt.Errorf("apply entry %d (term %d, %d bytes): %w", e.Index, e.Term, len(e.Data), err)
	}
	return nil
}

// internal runs a request of today's form: admin check, gates of alarms, permission,
// quota, effect (interop 7.2); the last four stand in the handler.
func (m *Machine) internal(c *call, data []byte) error {
	if err := c.envelope(data); err != nil {
		return err
	}
	c.res.ID = c.id
	h := handlerOf(c.field)
	if h.reads && !c.mine {
		return nil
	}
	if h.admin {
		if err := m.auth.CheckAdmin(c.user); err != nil {
			c.res.Err = err
			return nil
		}
	}
	return h.apply(m, c)
}

func (c *call) effect(e Effect) { c.res.Effects = append(c.res.Effects, e) }
