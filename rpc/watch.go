package rpc

import (
	"context"
	"io"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/status"

	"theseus/api"
	"theseus/internal/h2"
)

// watchService is Watch, whose one method is raw.
type watchService struct{ pb.UnimplementedWatchServer }

// watchers are the watchers of one stream: what the watch room makes.
type watchers interface {
	Create(r *pb.WatchCreateRequest)
	Refuse(reason string)
	Cancel(id int64)
	Progress()
	Next(ctx context.Context) ([][]byte, error)
	Close()
}

// watch answers Watch.Watch. The handler sends what the watchers produce; requests
// are taken by a goroutine beside it. A client that has closed its side keeps its
// watchers.
func (f *Front) watch(ctx context.Context, s *h2.Stream) error {
	if _, now := f.srv.Fenced(); now {
		return api.ErrFenced
	}
	var w watchers = f.srv.WatchHub().NewStream()
	ctx, cancel := context.WithCancelCause(ctx)
	received := make(chan struct{})
	go func() {
		defer close(received)
		if err := f.watchRequests(ctx, s, w); err != nil {
			cancel(err)
		}
	}()
	err := f.watchEvents(ctx, s, w)
	cancel(err)
	w.Close() // a request that waits for room goes on
	s.StopRecv()
	<-received
	return err
}

// watchEvents sends until the stream ends.
func (f *Front) watchEvents(ctx context.Context, s *h2.Stream, w watchers) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		msgs, err := w.Next(ctx)
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return err
		}
		began := time.Now()
		if err := s.SendCopy(msgs); err != nil { // the watchers use the memory again
			f.sendFailed(s, "watch")
			return err
		}
		f.metrics.sendLoop.batch.Observe(time.Since(began).Seconds())
		pace(ctx, timer, len(msgs))
	}
}

// Pacing of a stream with many watchers. A response costs its client several times
// what an event more in a response does, so a stream that has just sent many waits
// for about as long as the client needs for them, and what happens meanwhile leaves
// as one response a watcher. A stream with few watchers is never held up.
const (
	pacedResponses = 16
	pacePer        = 100 * time.Microsecond
	paceMost       = 10 * time.Millisecond
)

func pace(ctx context.Context, timer *time.Timer, responses int) {
	if responses < pacedResponses {
		return
	}
	timer.Reset(min(time.Duration(responses)*pacePer, paceMost))
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// watchRequests takes requests until the client ends (nil if it has only closed its
// side).
func (f *Front) watchRequests(ctx context.Context, s *h2.Stream, w watchers) error {
	for {
		var r pb.WatchRequest
		if err := s.RecvMsg(&r); err != nil {
			if err == io.EOF {
				return nil
			}
			f.receiveFailed(s, "watch")
			return err
		}
		switch x := r.RequestUnion.(type) {
		case *pb.WatchRequest_CreateRequest:
			if x.CreateRequest != nil {
				f.createWatch(ctx, w, x.CreateRequest)
			}
		case *pb.WatchRequest_CancelRequest:
			if x.CancelRequest != nil {
				w.Cancel(x.CancelRequest.WatchId)
			}
		case *pb.WatchRequest_ProgressRequest:
			w.Progress()
		}
	}
}

// createWatch makes a watcher if the caller may read what it watches. That is asked
// once: a watcher outlives the permission, as etcd's do (watched on 3.7).
func (f *Front) createWatch(ctx context.Context, w watchers, r *pb.WatchCreateRequest) {
	key := r.Key
	if len(key) == 0 {
		key = []byte{0}
	}
	if err := f.srv.AuthorizeRange(ctx, key, r.RangeEnd); err != nil {
		// etcd gives the text of the gRPC error here, and its client looks for it to
		// know that the token has to be renewed.
		w.Refuse(status.Convert(err).Err().Error())
		return
	}
	w.Create(r)
}
