package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// wideWindow is the flow control window that a rawWatch gives: the server is never
// held up by it.
const wideWindow = 1 << 30

// rawWatch is one gRPC watch stream on a connection of its own that only counts the
// events it is sent. It costs a small part of what a Go client costs, so the server shows.
type rawWatch struct {
	conn   net.Conn
	framer *http2.Framer
	got    *atomic.Int64
	rest   []byte // of a message that is not whole yet
	unread uint32 // bytes taken since the window was last widened
}

// openRawWatch opens a stream with so many watchers of a prefix and returns when all
// of them are created.
func openRawWatch(endpoint, prefix string, watchers int, got *atomic.Int64) (*rawWatch, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, err
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		return nil, err
	}
	r := &rawWatch{conn: conn, framer: http2.NewFramer(conn, conn), got: got}
	if err := r.open(u.Host, prefix, watchers); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("open a watch stream at %s: %w", endpoint, err)
	}
	return r, nil
}

func (r *rawWatch) open(authority, prefix string, watchers int) error {
	if _, err := io.WriteString(r.conn, http2.ClientPreface); err != nil {
		return err
	}
	var head bytes.Buffer
	enc := hpack.NewEncoder(&head)
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":authority", authority}, {":path", pb.Watch_Watch_FullMethodName},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}) // to a buffer: cannot fail
	}
	if err := errors.Join(
		r.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: wideWindow}),
		r.framer.WriteWindowUpdate(0, wideWindow),
		r.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndHeaders: true}),
	); err != nil {
		return err
	}
	create, err := proto.Marshal(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
		CreateRequest: &pb.WatchCreateRequest{Key: []byte(prefix), RangeEnd: []byte(prefix[:len(prefix)-1] + string(prefix[len(prefix)-1]+1))},
	}})
	if err != nil {
		return err
	}
	message := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(create))), create...)
	for range watchers {
		if err := r.framer.WriteData(1, false, message); err != nil {
			return err
		}
	}
	for created := 0; created < watchers; {
		n, err := r.read()
		if err != nil {
			return err
		}
		created += n
	}
	return nil
}

// read takes one frame and returns how many whole messages it ended.
func (r *rawWatch) read() (messages int, err error) {
	f, err := r.framer.ReadFrame()
	if err != nil {
		return 0, err
	}
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			return 0, r.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			return 0, r.framer.WritePing(true, f.Data)
		}
	case *http2.GoAwayFrame, *http2.RSTStreamFrame:
		return 0, fmt.Errorf("the server ended the stream: %v", f)
	case *http2.DataFrame:
		return r.take(f)
	}
	return 0, nil
}

func (r *rawWatch) take(f *http2.DataFrame) (messages int, err error) {
	r.unread += f.Length
	if r.unread > wideWindow/2 {
		if err := errors.Join(r.framer.WriteWindowUpdate(0, r.unread), r.framer.WriteWindowUpdate(1, r.unread)); err != nil {
			return 0, err
		}
		r.unread = 0
	}
	r.rest = append(r.rest, f.Data()...)
	at := r.rest
	for len(at) >= 5 {
		end := 5 + int(binary.BigEndian.Uint32(at[1:]))
		if len(at) < end {
			break
		}
		r.got.Add(int64(countEvents(at[5:end])))
		at, messages = at[end:], messages+1
	}
	r.rest = append(r.rest[:0], at...)
	return messages, nil
}

// countEvents counts the field events of an encoded WatchResponse.
func countEvents(b []byte) (n int) {
	const events = 11
	for len(b) > 0 {
		num, typ, size := protowire.ConsumeTag(b)
		if size < 0 {
			return n
		}
		if num == events {
			n++
		}
		skip := protowire.ConsumeFieldValue(num, typ, b[size:])
		if skip < 0 {
			return n
		}
		b = b[size+skip:]
	}
	return n
}

// rawFanOut is fanOut with the load of readers taken away.
func rawFanOut(watchers, conns int) func(*cluster, time.Duration) (sample, error) {
	return func(c *cluster, length time.Duration) (sample, error) {
		var got atomic.Int64
		var wg sync.WaitGroup
		defer wg.Wait()
		for range conns {
			r, err := openRawWatch(c.members[0].clientURL(), "fan/", watchers/conns, &got)
			if err != nil {
				return sample{}, err
			}
			defer func() { _ = r.conn.Close() }()
			wg.Go(func() {
				for err := error(nil); err == nil; { // until the connection is closed
					_, err = r.read()
				}
			})
		}
		return deliver(context.Background(), c, watchers, length, &got)
	}
}
