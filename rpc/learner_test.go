package rpc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"theseus/peer"
	"theseus/server"
)

// peerPort serves a member's peer handler on a port that it chooses.
func peerPort(t *testing.T) (url string, serve func(h http.Handler)) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return "http://" + l.Addr().String(), func(h http.Handler) {
		web := &http.Server{Handler: h}
		go web.Serve(peer.Listener(l))
		t.Cleanup(func() { web.Close() })
	}
}

// A learner serves Status, serializable Range and Snapshot, and nothing else.
func TestLearner(t *testing.T) {
	firstURL, serveFirst := peerPort(t)
	one := newMember(t, func(so *server.Options, _ *Options) { so.PeerURLs = []string{firstURL} })
	serveFirst(one.srv.PeerHandler())
	c, ctx := one.client(), short10(t)
	if _, err := c.Put(ctx, "k", "v"); err != nil {
		t.Fatal(err)
	}
	secondURL, serveSecond := peerPort(t)
	waitFor(t, func() bool { _, err := c.MemberAddAsLearner(ctx, []string{secondURL}); return err == nil })
	two := newMember(t, func(so *server.Options, _ *Options) {
		so.Name, so.PeerURLs, so.JoinExisting = "two", []string{secondURL}, true
		so.InitialCluster = map[string][]string{"one": {firstURL}, "two": {secondURL}}
	})
	serveSecond(two.srv.PeerHandler())
	cc := two.conn()
	kv := pb.NewKVClient(cc)
	waitFor(t, func() bool {
		r, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k"), Serializable: true})
		return err == nil && len(r.Kvs) == 1
	})
	if st, err := pb.NewMaintenanceClient(cc).Status(ctx, &pb.StatusRequest{}); err != nil || !st.IsLearner {
		t.Fatal(st, err)
	}
	snap, err := pb.NewMaintenanceClient(cc).Snapshot(ctx, &pb.SnapshotRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := snap.Recv(); err != nil {
		t.Fatal(err)
	}
	for name, ask := range map[string]func() error{
		"range":   func() error { return second(kv.Range(ctx, &pb.RangeRequest{Key: []byte("k")})) },
		"put":     func() error { return second(kv.Put(ctx, &pb.PutRequest{Key: []byte("k")})) },
		"txn":     func() error { return second(kv.Txn(ctx, &pb.TxnRequest{Success: ops{get("k")}})) },
		"members": func() error { return second(pb.NewClusterClient(cc).MemberList(ctx, &pb.MemberListRequest{})) },
		"hashkv":  func() error { return second(pb.NewMaintenanceClient(cc).HashKV(ctx, &pb.HashKVRequest{})) },
		"health":  func() error { return second(healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{})) },
		"watch":   func() error { return second(two.watchStream(ctx).Recv()) },
		"renew": func() error {
			st, err := pb.NewLeaseClient(cc).LeaseKeepAlive(ctx)
			if err != nil {
				return err
			}
			return second(st.Recv())
		},
	} {
		if st := status.Convert(ask()); st.Code() != codes.FailedPrecondition || st.Message() != "etcdserver: rpc not supported for learner" {
			t.Errorf("%s: %v", name, st)
		}
	}
}

// certificate makes a certificate signed by parent (nil: by itself).
func certificate(t *testing.T, cn string, parent *tls.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: cn},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: parent == nil, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	signer, signKey := c, any(key)
	if parent != nil {
		signer, signKey = parent.Leaf, parent.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, c, signer, &key.PublicKey, signKey)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// With verified client certificates the common name is who asks; a token wins.
func TestCommonName(t *testing.T) {
	ca := certificate(t, "ca", nil)
	pool := x509.NewCertPool()
	pool.AddCert(ca.Leaf)
	m := newMember(t, func(so *server.Options, o *Options) { so.BcryptCost, o.ClientCertAuth = 4, true })
	c, ctx := m.client(), short10(t)
	for _, err := range []error{
		second(c.UserAdd(ctx, "root", "r")), second(c.UserGrantRole(ctx, "root", "root")), second(c.UserAdd(ctx, "u", "u")), second(c.AuthEnable(ctx)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	server := &tls.Config{Certificates: []tls.Certificate{certificate(t, "server", &ca)}, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2"}}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go m.front.Serve(tls.Server(c, server), nil)
		}
	}()
	as := func(cn string) pb.KVClient {
		cfg := &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{certificate(t, cn, &ca)}}
		cc, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cc.Close() })
		return pb.NewKVClient(cc)
	}
	put := &pb.PutRequest{Key: []byte("a")}
	if _, err := as("root").Put(ctx, put); err != nil {
		t.Fatal(err)
	}
	_, err = as("u").Put(ctx, put)
	checkStatus(t, err, codes.PermissionDenied, "etcdserver: permission denied")
	_, err = as("").Put(ctx, put)
	checkStatus(t, err, codes.InvalidArgument, "etcdserver: user name is empty")
	root := m.client(func(cfg *clientv3.Config) { cfg.Username, cfg.Password = "root", "r" })
	if _, err := root.Put(context.Background(), "a", "b"); err != nil {
		t.Fatal(err)
	}
}
