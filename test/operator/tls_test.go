package operator

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"theseus/test/cluster"
)

// secureMember starts one member with TLS on both ports and client certificates.
func secureMember(t *testing.T, a *cluster.Authority) *cluster.Member {
	t.Helper()
	c := cluster.Prepare(t, cluster.Options{Scheme: "https"})
	m := c.Members[0]
	host := strings.TrimSuffix(strings.TrimPrefix(m.ClientURL(), "https://"), ":2379")
	a.Issue("server", "server", 100, host)
	m.Args = []string{
		"--cert-file", a.Path("server.pem"), "--key-file", a.Path("server.key"), "--trusted-ca-file", a.Path("ca.pem"), "--client-cert-auth",
		"--peer-cert-file", a.Path("server.pem"), "--peer-key-file", a.Path("server.key"), "--peer-trusted-ca-file", a.Path("ca.pem"), "--peer-client-cert-auth",
	}
	m.Start()
	return m
}

func secureClient(t *testing.T, m *cluster.Member, cfg *tls.Config) *clientv3.Client {
	t.Helper()
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{m.ClientURL()}, TLS: cfg, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

func TestTLS(t *testing.T) {
	a := cluster.NewAuthority(t)
	m := secureMember(t, a)
	a.Issue("alice", "alice", 7)
	cli := secureClient(t, m, a.Client("alice"))
	err := cluster.Eventually(t, func(ctx context.Context) error {
		_, err := cli.Put(ctx, "k", "v")
		return err
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, m.LogTail(20))
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := secureClient(t, m, a.Client("")).Get(ctx, "k"); err == nil {
		t.Error("a client without a certificate was served")
	}
	for _, h2 := range []bool{true, false} {
		web := &http.Client{Transport: &http.Transport{TLSClientConfig: a.Client("alice"), ForceAttemptHTTP2: h2}}
		resp, err := web.Get(m.ClientURL() + "/health")
		if err != nil {
			t.Fatalf("HTTP/2 %v: %v", h2, err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if string(body) != `{"health":"true","reason":""}` || (resp.ProtoMajor == 2) != h2 {
			t.Errorf("HTTP/2 %v: got %s over %s", h2, body, resp.Proto)
		}
	}
	// A new certificate is shown at the next handshake, without a restart.
	host := strings.TrimSuffix(strings.TrimPrefix(m.ClientURL(), "https://"), ":2379")
	a.Issue("server", "server", 200, host)
	conn, err := tls.Dial("tcp", host+":2379", a.Client("alice"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if n := conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64(); n != 200 {
		t.Errorf("serial %d after the certificate was replaced, want 200", n)
	}
}

// TestAutoTLS: three members that speak TLS to each other and to clients with
// certificates they made themselves.
func TestAutoTLS(t *testing.T) {
	c := cluster.Prepare(t, cluster.Options{Size: 3, Scheme: "https", Args: []string{"--auto-tls", "--peer-auto-tls"}})
	for _, m := range c.Members {
		m.Start()
	}
	cli := secureClient(t, c.Members[1], &tls.Config{InsecureSkipVerify: true})
	err := cluster.Eventually(t, func(ctx context.Context) error {
		_, err := cli.Put(ctx, "k", "v")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, side := range []string{"client", "peer"} {
		if _, err := os.Stat(filepath.Join(c.Members[0].Dir, "fixtures", side, "cert.pem")); err != nil {
			t.Error(err)
		}
	}
}
