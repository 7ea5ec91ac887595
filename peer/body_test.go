package peer

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

// TestBodies: whole ones come back as they were, long ones without more room than they
// need, and what breaks off or is too long is an error.
func TestBodies(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789"), 3*firstRead/10)
	for name, tc := range map[string]struct {
		r      io.Reader
		length int64
		want   []byte
		err    error
	}{
		"announced":      {bytes.NewReader(body), int64(len(body)), body, nil},
		"piece by piece": {iotest.HalfReader(bytes.NewReader(body)), int64(len(body)), body, nil},
		"not announced":  {bytes.NewReader(body), -1, body, nil},
		"short":          {bytes.NewReader(body[:9]), 9, body[:9], nil},
		"nothing":        {bytes.NewReader(nil), 0, []byte{}, nil},
		"breaks off":     {bytes.NewReader(body[:2*firstRead]), int64(len(body)), nil, io.ErrUnexpectedEOF},
		"breaks off at once": {
			bytes.NewReader(body[:9]), int64(len(body)), nil, io.ErrUnexpectedEOF,
		},
		"too long": {bytes.NewReader(append(body, body...)), -1, nil, errFrameSize},
	} {
		got, err := readAnnounced(tc.r, tc.length, int64(len(body)+1))
		if !errors.Is(err, tc.err) {
			t.Errorf("%s: %v, want %v", name, err, tc.err)
		}
		if err == nil && !bytes.Equal(got, tc.want) {
			t.Errorf("%s: %d bytes, want %d", name, len(got), len(tc.want))
		}
		if err == nil && tc.length > firstRead && cap(got) > int(tc.length) {
			t.Errorf("%s: %d bytes of room for %d", name, cap(got), tc.length)
		}
	}
}
