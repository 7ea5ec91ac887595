package embed

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"theseus/config"
)

// freeURL is a loopback address on which nobody listens.
func freeURL(t *testing.T) url.URL {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return url.URL{Scheme: "http", Host: l.Addr().String()}
}

// pair configures two members of one cluster.
func pair(t *testing.T) (a, b *config.Config) {
	t.Helper()
	all := []*config.Config{config.New(), config.New()}
	var initial []string
	for i, c := range all {
		peer, client := freeURL(t), freeURL(t)
		c.Name, c.DataDir = fmt.Sprintf("m%d", i), filepath.Join(t.TempDir(), "data")
		c.ListenPeerURLs, c.AdvertisePeerURLs = []url.URL{peer}, []url.URL{peer}
		c.ListenClientURLs, c.AdvertiseClientURLs = []url.URL{client}, []url.URL{client}
		c.LogLevel = "fatal"
		initial = append(initial, c.Name+"="+peer.String())
	}
	for _, c := range all {
		c.InitialCluster = strings.Join(initial, ",")
	}
	return all[0], all[1]
}

func get(t *testing.T, m *Member, path string) string {
	t.Helper()
	resp, err := http.Get("http://" + m.ClientAddrs()[0].String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestHeldUntilFounded: a member serves that it waits, and is itself when the other comes.
func TestHeldUntilFounded(t *testing.T) {
	a, b := pair(t)
	one, err := Start(a)
	if err != nil {
		t.Fatal(err)
	}
	if one.Server() != nil {
		t.Error("the first member runs alone")
	}
	if got := get(t, one, "/health"); !strings.Contains(got, "waiting for m1=") {
		t.Errorf("/health: %s", got)
	}
	two, err := Start(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*Member{one, two} {
		select {
		case <-m.Ready():
		case <-time.After(20 * time.Second):
			t.Fatalf("not ready: %s", get(t, m, "/health"))
		}
		if got := get(t, m, "/readyz"); strings.TrimSpace(got) != "ok" {
			t.Errorf("/readyz: %s", got)
		}
	}
	for _, m := range []*Member{two, one} {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		<-m.Done()
		if m.Err() != nil {
			t.Error(m.Err())
		}
	}
}

// TestHeldIsClosed: a member that never got in ends when it is told to.
func TestHeldIsClosed(t *testing.T) {
	a, _ := pair(t)
	m, err := Start(a)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	<-m.Done()
	if m.Err() != nil {
		t.Error(m.Err())
	}
	if l, err := net.Listen("tcp", a.ListenClientURLs[0].Host); err != nil {
		t.Error(err)
	} else {
		_ = l.Close()
	}
}
