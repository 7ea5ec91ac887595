package peer

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"go.etcd.io/raft/v3/raftpb"
)

// Errors of the decoders. The stream is closed and dialed again.
var (
	errFrameType  = errors.New("unknown frame type")
	errFrameSize  = errors.New("frame is too large")
	errFrameState = errors.New("frame continues a message that was not sent")
)

// The frames of the msgapp stream ("MsgApp v2", interop 8.6 and D.5). Integers are
// big endian.
const (
	frameHeartbeat  = 0 // nothing follows
	frameAppEntries = 1 // count, count × (size, entry), commit: it continues the message before
	frameMsgApp     = 2 // size, message
)

// isLinkHeartbeat tells the message that only keeps a stream alive.
func isLinkHeartbeat(m *raftpb.Message) bool {
	return m.Type == raftpb.MsgHeartbeat && m.From == 0 && m.To == 0
}

// linkBeat is that message.
var linkBeat = raftpb.Message{Type: raftpb.MsgHeartbeat}

// encoder appends messages in a stream's codec.
type encoder interface {
	append(b []byte, m *raftpb.Message) ([]byte, error)
}

// appEncoder is the writing side of a msgapp stream. Its state begins at zero with
// every connection.
type appEncoder struct{ term, index uint64 }

func (e *appEncoder) append(b []byte, m *raftpb.Message) ([]byte, error) {
	switch {
	case isLinkHeartbeat(m):
		return append(b, frameHeartbeat), nil
	case e.term != 0 && e.index == m.Index && e.term == m.LogTerm && e.term == m.Term:
		b = append(b, frameAppEntries)
		b = binary.BigEndian.AppendUint64(b, uint64(len(m.Entries)))
		for i := range m.Entries {
			b = appendEntry(b, &m.Entries[i])
		}
		e.index += uint64(len(m.Entries))
		return binary.BigEndian.AppendUint64(b, m.Commit), nil
	}
	b, err := appendMessage(append(b, frameMsgApp), m)
	if err != nil {
		return nil, err
	}
	e.follow(m)
	return b, nil
}

func (e *appEncoder) follow(m *raftpb.Message) {
	e.term, e.index = m.Term, m.Index
	if n := len(m.Entries); n > 0 {
		e.index = m.Entries[n-1].Index
	}
}

// appendEntry appends size and bytes of an entry.
func appendEntry(b []byte, e *raftpb.Entry) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, 0x08)
	b = binary.AppendUvarint(b, uint64(e.Type))
	b = binary.AppendUvarint(append(b, 0x10), e.Term)
	b = binary.AppendUvarint(append(b, 0x18), e.Index)
	if e.Data != nil {
		b = binary.AppendUvarint(append(b, 0x22), uint64(len(e.Data)))
		b = append(b, e.Data...)
	}
	binary.BigEndian.PutUint64(b[at:], uint64(len(b)-at-8))
	return b
}

// appendMessage appends size and bytes of a message.
func appendMessage(b []byte, m *raftpb.Message) ([]byte, error) {
	size := m.Size()
	b = binary.BigEndian.AppendUint64(b, uint64(size))
	at := len(b)
	b = append(b, make([]byte, size)...) // no allocation: the compiler only grows b
	if _, err := m.MarshalTo(b[at:]); err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.Type, err)
	}
	return b, nil
}

// messageEncoder is the writing side of a message stream: sizes and messages.
type messageEncoder struct{}

func (messageEncoder) append(b []byte, m *raftpb.Message) ([]byte, error) { return appendMessage(b, m) }

// decoder reads the next message of a stream.
type decoder interface {
	next(m *raftpb.Message) error
}

// frames reads sizes and bytes, and takes no memory on an announcement only.
type frames struct {
	r    *bufio.Reader
	word [8]byte
	slab []byte // entries of several frames share it
}

const (
	slabBytes = 64 << 10
	growBytes = 1 << 20 // taken at a time for what is larger
)

func (f *frames) uint64() (uint64, error) {
	if _, err := io.ReadFull(f.r, f.word[:]); err != nil {
		return 0, unexpected(err)
	}
	return binary.BigEndian.Uint64(f.word[:]), nil
}

// unexpected is for the ends of a stream that lie within a frame.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// bytes reads n bytes, which the caller keeps.
func (f *frames) bytes(n uint64) ([]byte, error) {
	if n <= slabBytes/8 {
		if uint64(cap(f.slab)-len(f.slab)) < n {
			f.slab = make([]byte, 0, slabBytes)
		}
		at := len(f.slab)
		b := f.slab[at : at+int(n) : at+int(n)]
		if _, err := io.ReadFull(f.r, b); err != nil {
			return nil, unexpected(err)
		}
		f.slab = f.slab[:at+int(n)]
		return b, nil
	}
	return readLarge(f.r, nil, n)
}

// readLarge reads n bytes behind b, in steps, so that memory follows what arrives.
func readLarge(r io.Reader, b []byte, n uint64) ([]byte, error) {
	for n > 0 {
		step := int(min(n, max(growBytes, uint64(len(b)))))
		at := len(b)
		if cap(b)-at < step {
			b = append(make([]byte, 0, at+step), b...)
		}
		b = b[:at+step]
		if _, err := io.ReadFull(r, b[at:]); err != nil {
			return nil, unexpected(err)
		}
		n -= uint64(step)
	}
	return b, nil
}

// appDecoder is the reading side of a msgapp stream.
type appDecoder struct {
	frames
	local, remote uint64
	state         appEncoder // as the writer has it
	scratch       []byte
}

func newAppDecoder(r io.Reader, local, remote uint64) *appDecoder {
	return &appDecoder{frames: frames{r: bufio.NewReaderSize(r, slabBytes)}, local: local, remote: remote}
}

func (d *appDecoder) next(m *raftpb.Message) error {
	typ, err := d.r.ReadByte()
	if err != nil {
		return err
	}
	switch typ {
	case frameHeartbeat:
		*m = linkBeat
		return nil
	case frameAppEntries:
		return d.entries(m)
	case frameMsgApp:
		if d.scratch, err = d.message(m, d.scratch); err != nil {
			return err
		}
		d.state.follow(m)
		return nil
	}
	return fmt.Errorf("%w %d", errFrameType, typ)
}

// entries reads a frame that continues the message before: what it leaves out follows
// from the state.
func (d *appDecoder) entries(m *raftpb.Message) error {
	count, err := d.uint64()
	if err != nil {
		return err
	}
	if d.state.term == 0 {
		return errFrameState
	}
	if count > maxEntries {
		return fmt.Errorf("%w: %d entries", errFrameSize, count)
	}
	*m = raftpb.Message{
		Type: raftpb.MsgApp, From: d.remote, To: d.local,
		Term: d.state.term, LogTerm: d.state.term, Index: d.state.index,
	}
	if count > 0 {
		m.Entries = make([]raftpb.Entry, 0, min(count, 1024))
	}
	left := uint64(maxFrameBytes)
	for range count {
		size, err := d.uint64()
		if err != nil {
			return err
		}
		if size > left {
			return fmt.Errorf("%w: an entry of %d bytes", errFrameSize, size)
		}
		left -= size
		b, err := d.bytes(size)
		if err != nil {
			return err
		}
		m.Entries = append(m.Entries, raftpb.Entry{})
		if err := decodeEntry(b, &m.Entries[len(m.Entries)-1]); err != nil {
			return err
		}
	}
	if m.Commit, err = d.uint64(); err != nil {
		return err
	}
	d.state.index += count
	return nil
}

// message reads size and bytes of a message. buf is scratch, and returned.
func (f *frames) message(m *raftpb.Message, buf []byte) ([]byte, error) {
	size, err := f.uint64()
	if err != nil {
		return buf, err
	}
	if size > maxFrameBytes {
		return buf, fmt.Errorf("%w: a message of %d bytes", errFrameSize, size)
	}
	b, err := readLarge(f.r, buf[:0], size)
	if err != nil {
		return buf, err
	}
	*m = raftpb.Message{}
	if err := m.Unmarshal(b); err != nil {
		return buf, fmt.Errorf("decode message: %w", err)
	}
	if cap(b) > keepBuffer {
		b = nil
	}
	return b, nil
}

// messageDecoder is the reading side of a message stream.
type messageDecoder struct {
	frames
	scratch []byte
}

func newMessageDecoder(r io.Reader) *messageDecoder {
	return &messageDecoder{frames: frames{r: bufio.NewReaderSize(r, slabBytes)}}
}

func (d *messageDecoder) next(m *raftpb.Message) (err error) {
	if _, err := d.r.Peek(1); err != nil {
		return err // the end of the stream, between two frames
	}
	d.scratch, err = d.message(m, d.scratch)
	return err
}

var errEntry = errors.New("decode entry: malformed")

// decodeEntry decodes an entry without copying its data. Unknown fields are skipped.
func decodeEntry(b []byte, e *raftpb.Entry) error {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 || tag>>3 == 0 || tag > 1<<32 {
			return errEntry
		}
		b = b[n:]
		val, n := binary.Uvarint(b)
		switch tag & 7 {
		case 0:
			if n <= 0 {
				return errEntry
			}
			b = b[n:]
			switch tag >> 3 {
			case 1:
				e.Type = raftpb.EntryType(val)
			case 2:
				e.Term = val
			case 3:
				e.Index = val
			case 4:
				return errEntry
			}
		case 2:
			if n <= 0 || val > uint64(len(b)-n) {
				return errEntry
			}
			data := b[n : n+int(val) : n+int(val)]
			b = b[n+int(val):]
			switch tag >> 3 {
			case 1, 2, 3:
				return errEntry
			case 4:
				e.Data = data
			}
		default:
			return errEntry
		}
	}
	return nil
}
