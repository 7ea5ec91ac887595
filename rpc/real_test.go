package rpc

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"theseus/api"
	"theseus/test/cluster"
)

// TestCheckTxnAsReal asks a real etcd 3.7 whether random transactions conflict, and
// expects the same answer from our check.
func TestCheckTxnAsReal(t *testing.T) {
	real := cluster.New(t, cluster.Options{Binary: cluster.Etcd(t, "3.7")})
	cc, err := grpc.NewClient(strings.TrimPrefix(real.Members[0].ClientURL(), "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	kv := pb.NewKVClient(cc)
	rnd := rand.New(rand.NewPCG(3, 4))
	refused := 0
	for range 1500 {
		r := &pb.TxnRequest{Success: randomOps(rnd, 2), Failure: randomOps(rnd, 2)}
		_, err := kv.Txn(ctx, r, grpc.WaitForReady(true))
		ours := checkTxn(r, 128)
		if ours != nil {
			refused++
		}
		var text string
		if ours != nil {
			text = "rpc error: code = " + api.CodeOf(ours).String() + " desc = " + ours.Error()
		}
		var theirs string
		if err != nil {
			theirs = err.Error()
		}
		if text != theirs {
			b, _ := proto.Marshal(r)
			t.Errorf("%x\n%v\nours   %s\ntheirs %s", b, r, text, theirs)
		}
	}
	if refused < 100 || refused > 1400 {
		t.Errorf("%d of 1500 refused: the random transactions are bad", refused)
	}
}
