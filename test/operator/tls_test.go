package operator

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
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

// authority signs certificates into a folder.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.key = newKey(t)
	a.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	a.write("ca", a.cert, a.key)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// issue makes name.pem and name.key for a common name, a serial and all of
// loopback.
func (a *authority) issue(name, cn string, serial int64, ips ...string) {
	c := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: cn}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, ip := range ips {
		c.IPAddresses = append(c.IPAddresses, net.ParseIP(ip))
	}
	a.write(name, c, newKey(a.t))
}

func (a *authority) write(name string, c *x509.Certificate, key *ecdsa.PrivateKey) {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	pk, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, b := range map[string][]byte{a.path(name + ".pem"): pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), a.path(name + ".key"): pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: pk})} {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) client(name string) *tls.Config {
	a.t.Helper()
	pool := x509.NewCertPool()
	ca, err := os.ReadFile(a.path("ca.pem"))
	if err != nil {
		a.t.Fatal(err)
	}
	pool.AppendCertsFromPEM(ca)
	cfg := &tls.Config{RootCAs: pool}
	if name != "" {
		pair, err := tls.LoadX509KeyPair(a.path(name+".pem"), a.path(name+".key"))
		if err != nil {
			a.t.Fatal(err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg
}

// secureMember starts one member with TLS on both ports and client certificates.
func secureMember(t *testing.T, a *authority) *cluster.Member {
	t.Helper()
	c := cluster.Prepare(t, cluster.Options{Scheme: "https"})
	m := c.Members[0]
	host := strings.TrimSuffix(strings.TrimPrefix(m.ClientURL(), "https://"), ":2379")
	a.issue("server", "server", 100, host)
	m.Args = []string{
		"--cert-file", a.path("server.pem"), "--key-file", a.path("server.key"), "--trusted-ca-file", a.path("ca.pem"), "--client-cert-auth",
		"--peer-cert-file", a.path("server.pem"), "--peer-key-file", a.path("server.key"), "--peer-trusted-ca-file", a.path("ca.pem"), "--peer-client-cert-auth",
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
	a := newAuthority(t)
	m := secureMember(t, a)
	a.issue("alice", "alice", 7)
	cli := secureClient(t, m, a.client("alice"))
	err := cluster.Eventually(t, func(ctx context.Context) error {
		_, err := cli.Put(ctx, "k", "v")
		return err
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, m.LogTail(20))
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := secureClient(t, m, a.client("")).Get(ctx, "k"); err == nil {
		t.Error("a client without a certificate was served")
	}
	for _, h2 := range []bool{true, false} {
		web := &http.Client{Transport: &http.Transport{TLSClientConfig: a.client("alice"), ForceAttemptHTTP2: h2}}
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
	a.issue("server", "server", 200, host)
	conn, err := tls.Dial("tcp", host+":2379", a.client("alice"))
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
