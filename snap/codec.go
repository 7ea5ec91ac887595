package snap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"go.etcd.io/raft/v3/raftpb"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Marshal encodes s as the content of a .snap file: a checksum and the bytes
// that it is of.
func Marshal(s raftpb.Snapshot) ([]byte, error) {
	body, err := s.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode snapshot: %w", err)
	}
	b := make([]byte, 0, len(body)+16)
	b = binary.AppendUvarint(append(b, 0x08), uint64(crc32.Checksum(body, castagnoli)))
	b = binary.AppendUvarint(append(b, 0x12), uint64(len(body)))
	return append(b, body...), nil
}

// Unmarshal decodes the content of a .snap file. The error says what is wrong.
func Unmarshal(b []byte) (*raftpb.Snapshot, error) {
	crc, body, err := unwrap(b)
	if err != nil {
		return nil, err
	}
	// Every etcd takes these for an empty snapshot, so no good file has them.
	if len(body) == 0 || crc == 0 {
		return nil, errors.New("it holds no snapshot")
	}
	if got := crc32.Checksum(body, castagnoli); got != crc {
		return nil, fmt.Errorf("its checksum is %08x, computed %08x", crc, got)
	}
	s := &raftpb.Snapshot{}
	if err := s.Unmarshal(body); err != nil {
		return nil, fmt.Errorf("decode snapshot: %w", err)
	}
	return s, nil
}

// unwrap splits the message {1: crc, 2: data}.
func unwrap(b []byte) (crc uint32, body []byte, err error) {
	if len(b) == 0 {
		return 0, nil, errors.New("the file is empty")
	}
	for len(b) > 0 {
		tag := b[0]
		v, n := binary.Uvarint(b[1:])
		if n <= 0 {
			return 0, nil, errors.New("it ends within a field")
		}
		b = b[1+n:]
		switch {
		case tag == 0x08 && v <= 1<<32-1:
			crc = uint32(v)
		case tag == 0x12 && v <= uint64(len(b)):
			body, b = b[:v], b[v:]
		case tag == 0x12:
			return 0, nil, fmt.Errorf("it ends %d bytes early", v-uint64(len(b)))
		default:
			return 0, nil, errors.New("it is no snapshot file")
		}
	}
	return crc, body, nil
}

// WriteMessage writes m as POST /raft/snapshot and the message stream carry it:
// its size in 8 bytes, big endian, then its bytes; all in one Write.
func WriteMessage(w io.Writer, m raftpb.Message) error {
	b := make([]byte, 8+m.Size())
	n, err := m.MarshalTo(b[8:])
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	binary.BigEndian.PutUint64(b, uint64(n))
	_, err = w.Write(b[:8+n])
	return err
}

// ReadMessage reads what WriteMessage wrote. A size over limit bytes is
// ErrTooLarge, wrapped; the memory it takes grows with what has arrived, not
// with what was announced. Before the first byte the end of r is io.EOF, after
// it io.ErrUnexpectedEOF.
func ReadMessage(r io.Reader, limit uint64) (m raftpb.Message, err error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return m, err
	}
	size := binary.BigEndian.Uint64(head[:])
	if size > limit || size > 1<<62 {
		return m, fmt.Errorf("message of %d bytes, limit %d: %w", size, limit, ErrTooLarge)
	}
	b, err := readGrowing(r, int64(size))
	if err != nil {
		return m, err
	}
	if err := m.Unmarshal(b); err != nil {
		return raftpb.Message{}, fmt.Errorf("decode message: %w", err)
	}
	return m, nil
}

// trustBytes is what is allocated for a message on the word of its sender.
const trustBytes = 64 << 10

func readGrowing(r io.Reader, size int64) ([]byte, error) {
	if size <= trustBytes {
		b := make([]byte, size)
		_, err := io.ReadFull(r, b)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return b, err
	}
	var buf bytes.Buffer
	if n, err := io.CopyN(&buf, r, size); err != nil {
		if errors.Is(err, io.EOF) && n < size {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return buf.Bytes(), nil
}
