package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"theseus/internal/vfs"
)

const windowBytes = 1 << 20 // read at once

// reader reads the bytes of one segment in order through a window.
type reader struct {
	f    vfs.File
	size int64  // of the file
	off  int64  // of the next byte to be read
	buf  []byte // the window; kept from segment to segment
	lo   int    // unread part of the window
	hi   int
}

// reset starts on another file.
func (r *reader) reset(f vfs.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	r.f, r.size, r.off, r.lo, r.hi = f, st.Size(), 0, 0, 0
	return nil
}

// remain is the number of bytes not yet taken.
func (r *reader) remain() int64 { return r.size - r.off }

// peek returns the next n bytes, or all that remain when they are fewer. They
// are valid until the next call.
func (r *reader) peek(n int) ([]byte, error) {
	n = int(min(int64(n), r.remain()))
	if r.hi-r.lo >= n {
		return r.buf[r.lo : r.lo+n], nil
	}
	if want := max(n, int(min(windowBytes, r.remain()))); len(r.buf) < want {
		bigger := make([]byte, want)
		copy(bigger, r.buf[r.lo:r.hi])
		r.buf = bigger
	} else {
		copy(r.buf, r.buf[r.lo:r.hi])
	}
	r.lo, r.hi = 0, r.hi-r.lo
	for r.hi < n {
		upTo := min(int64(len(r.buf)), r.remain())
		got, err := r.f.ReadAt(r.buf[r.hi:upTo], r.off+int64(r.hi))
		r.hi += got
		if err != nil && r.hi < n {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF // it has become shorter meanwhile
			}
			return nil, fmt.Errorf("read at byte %d: %w", r.off+int64(r.hi), err)
		}
	}
	return r.buf[:n], nil
}

// take moves over n bytes that were peeked at.
func (r *reader) take(n int) {
	r.lo += n
	r.off += int64(n)
}

// outcome is what next found.
type outcome int

const (
	found  outcome = iota // a record whose checksum is right
	end                   // nothing but zeroes up to the end of the file
	broken                // anything else
)

// next reads the record at r.off; crc is the running checksum before it, which
// a crc record replaces. The record is valid until the next call.
func (r *reader) next(crc uint32) (rec record, frame int, what outcome, err error) {
	b, err := r.peek(lengthBytes)
	if err != nil {
		return rec, 0, broken, err
	}
	if len(b) < lengthBytes || binary.LittleEndian.Uint64(b) == 0 {
		zero, err := r.restIsZero()
		if err != nil || !zero {
			return rec, 0, broken, err
		}
		return rec, 0, end, nil
	}
	n, ok := parseLength(binary.LittleEndian.Uint64(b))
	if !ok || int64(frameBytes(n)) > r.remain() {
		return rec, 0, broken, nil
	}
	if b, err = r.peek(frameBytes(n)); err != nil {
		return rec, 0, broken, err
	}
	rec, ok = parseRecord(b[lengthBytes : lengthBytes+n])
	if !ok || rec.typ != typeCRC && rec.crc != update(crc, rec.data) {
		return rec, 0, broken, nil
	}
	return rec, frameBytes(n), found, nil
}

var zeroes = make([]byte, 256<<10)

// restIsZero tells whether only zeroes follow, as they do in the part of a
// segment that was prepared and not yet written.
func (r *reader) restIsZero() (bool, error) {
	for at := r.off; at < r.size; {
		n := int(min(r.size-at, windowBytes))
		if len(r.buf) < n {
			r.buf = make([]byte, n)
		}
		r.lo, r.hi = 0, 0 // the window is used for something else
		got, err := r.f.ReadAt(r.buf[:n], at)
		if got < n && err != nil {
			return false, fmt.Errorf("read at byte %d: %w", at+int64(got), err)
		}
		if !isZero(r.buf[:n]) {
			return false, nil
		}
		at += int64(n)
	}
	return true, nil
}

// rest reads everything from r.off on. It is used on damage only.
func (r *reader) rest() ([]byte, error) {
	b := make([]byte, r.remain())
	if n, err := r.f.ReadAt(b, r.off); n < len(b) {
		return nil, fmt.Errorf("read at byte %d: %w", r.off+int64(n), err)
	}
	return b, nil
}

func isZero(b []byte) bool {
	for len(b) > len(zeroes) {
		if !bytes.Equal(b[:len(zeroes)], zeroes) {
			return false
		}
		b = b[len(zeroes):]
	}
	return bytes.Equal(b, zeroes[:len(b)])
}
