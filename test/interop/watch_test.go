package interop

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"theseus/test/cluster"
)

func create(w *pb.WatchCreateRequest) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: w}}
}

func cancelWatch(id int64) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}}
}

func progress() *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
}

// watching is one stream: what is sent, in order, and how many responses are
// awaited after each, so that the order of the answers is certain.
type watching struct {
	name  string
	steps []watchStep
}

type watchStep struct {
	send  *pb.WatchRequest
	do    func(ctx context.Context, cli *clientv3.Client) error
	await int
}

func putting(keys ...string) func(context.Context, *clientv3.Client) error {
	return func(ctx context.Context, cli *clientv3.Client) error {
		for _, k := range keys {
			if _, err := cli.Put(ctx, k, "v"); err != nil {
				return err
			}
		}
		return nil
	}
}

func watchings() []watching {
	txn := func(ctx context.Context, cli *clientv3.Client) error {
		_, err := cli.Txn(ctx).Then(clientv3.OpPut("w/1", "t"), clientv3.OpPut("w/2", "t"), clientv3.OpDelete("w/3")).Commit()
		return err
	}
	all := func(w *pb.WatchCreateRequest) *pb.WatchRequest {
		w.Key, w.RangeEnd = []byte("w/"), []byte("w0")
		return create(w)
	}
	return []watching{
		{"from now", []watchStep{{send: all(&pb.WatchCreateRequest{}), await: 1}, {do: putting("w/1"), await: 1}, {do: txn, await: 1}}},
		{"from the past", []watchStep{{send: all(&pb.WatchCreateRequest{StartRevision: 3}), await: 2}}},
		{"from the past with previous values", []watchStep{{send: all(&pb.WatchCreateRequest{StartRevision: 3, PrevKv: true}), await: 2}}},
		{"compacted", []watchStep{{send: all(&pb.WatchCreateRequest{StartRevision: 1}), await: 2}}},
		{"from the future", []watchStep{{send: all(&pb.WatchCreateRequest{StartRevision: 1 << 40}), await: 1}, {do: putting("w/1")}, {send: cancelWatch(0), await: 1}}},
		{"negative start", []watchStep{{send: all(&pb.WatchCreateRequest{StartRevision: -1}), await: 1}}},
		{"empty range", []watchStep{{send: create(&pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("a")}), await: 1}}},
		{"no puts", []watchStep{{send: all(&pb.WatchCreateRequest{Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}}), await: 1}, {do: putting("w/3")}, {do: txn, await: 1}}},
		{"no deletes", []watchStep{{send: all(&pb.WatchCreateRequest{Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NODELETE}}), await: 1}, {do: putting("w/3"), await: 1}, {do: txn, await: 1}}},
		{"chosen and doubled id", []watchStep{
			{send: all(&pb.WatchCreateRequest{WatchId: 7}), await: 1}, {send: all(&pb.WatchCreateRequest{WatchId: 7}), await: 1},
			{send: all(&pb.WatchCreateRequest{}), await: 1}, {send: cancelWatch(7), await: 1}, {send: cancelWatch(99)}, {send: cancelWatch(0), await: 1}}},
		{"bookmark on request", []watchStep{{send: all(&pb.WatchCreateRequest{}), await: 1}, {send: progress(), await: 1}}},
		{"key from on", []watchStep{{send: create(&pb.WatchCreateRequest{Key: []byte("w/2"), RangeEnd: []byte{0}}), await: 1}, {do: putting("w/1", "w/2"), await: 1}}},
		{"empty key, one key", []watchStep{{send: create(&pb.WatchCreateRequest{}), await: 1}, {send: create(&pb.WatchCreateRequest{Key: []byte("w/1")}), await: 1}, {do: putting("w/1"), await: 1}}},
	}
}

// watchTranscript plays every stream on a fresh member.
func watchTranscript(t *testing.T, b cluster.Binary) []string {
	t.Helper()
	c := cluster.New(t, cluster.Options{Binary: b})
	cli := c.Client()
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	must(t, putting("w/1", "w/2", "w/3", "w/2", "w/3")(ctx, cli))
	_, err := cli.Compact(ctx, 3)
	must(t, err)
	var lines []string
	for _, w := range watchings() {
		lines = append(lines, "--- "+w.name)
		lines = append(lines, w.play(ctx, t, cli)...)
	}
	return lines
}

func (w watching) play(ctx context.Context, t *testing.T, cli *clientv3.Client) []string {
	t.Helper()
	ctx, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	stream, err := pb.NewWatchClient(cli.ActiveConnection()).Watch(ctx)
	must(t, err)
	var lines []string
	for i, s := range w.steps {
		if s.send != nil {
			must(t, stream.Send(s.send))
		}
		if s.do != nil {
			must(t, s.do(ctx, cli))
		}
		for range s.await {
			r, err := stream.Recv()
			if err != nil {
				return append(lines, fmt.Sprintf("step %d: %s", i, status.Convert(err).Message()))
			}
			scrub(r.ProtoReflect())
			b, _ := protojson.MarshalOptions{UseProtoNames: true}.Marshal(r)
			lines = append(lines, fmt.Sprintf("step %d: %s", i, strings.ReplaceAll(string(b), `": `, `":`)))
		}
	}
	return lines
}

// TestSameWatches compares what watch streams say, response by response.
func TestSameWatches(t *testing.T) {
	want := watchTranscript(t, cluster.Etcd(t, "3.7"))
	got := watchTranscript(t, cluster.Theseus(t))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("watches differ (-etcd 3.7 +theseus):\n%s", diff)
	}
}

// TestSameWatchesOfTheReal shows that the scripts are repeatable.
func TestSameWatchesOfTheReal(t *testing.T) {
	b := cluster.Etcd(t, "3.7")
	one := watchTranscript(t, b)
	t.Log(strings.Join(one, "\n"))
	if diff := cmp.Diff(one, watchTranscript(t, b)); diff != "" {
		t.Fatalf("two runs of etcd 3.7 differ:\n%s", diff)
	}
}
