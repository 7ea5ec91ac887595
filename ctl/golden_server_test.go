package ctl_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cockroachdb/datadriven"

	"theseus/test/cluster"
)

// server starts a member at a fixed address, whose ids are then the same in every
// run. Further flags stand in the input.
func (s *session) server(d *datadriven.TestData) string {
	var addr, token string
	d.ScanArgs(s.t, "addr", &addr)
	d.ScanArgs(s.t, "token", &token)
	s.lockAddr(addr)
	name := "m" + fmt.Sprint(len(s.servers))
	peer := "http://" + addr + ":2380"
	initial := name + "=" + peer
	state := "new"
	if d.HasArg("join") {
		state = "existing"
		d.ScanArgs(s.t, "join", &initial)
		initial += "," + name + "=" + peer
	}
	command := strings.Fields(*serverCommand)
	if len(command) == 0 {
		command = []string{cluster.Peer(s.t, "3.7", "etcd")}
	} else if !filepath.IsAbs(command[0]) {
		command[0] = filepath.Join(cluster.Root(), command[0])
	}
	scheme := "http://"
	if d.HasArg("tls") {
		scheme = "https://"
		writeCerts(s.t, s.dir, addr, "root")
		s.tls = true
	}
	client := scheme + addr + ":2379"
	args := append(command[1:], "--name", name, "--data-dir", filepath.Join(s.dir, name+".etcd"),
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
		"--initial-cluster", initial, "--initial-cluster-token", token, "--initial-cluster-state", state,
		"--heartbeat-interval", "20", "--election-timeout", "200")
	args = append(args, strings.Fields(strings.ReplaceAll(d.Input, "DIR", s.dir))...)
	cmd := exec.Command(command[0], args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	logFile, err := os.Create(filepath.Join(s.dir, name+".log"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer logFile.Close()
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.servers = append(s.servers, cmd)
	if s.addr == "" {
		s.addr = addr + ":2379"
		if s.tls {
			s.addr = client
		}
	}
	s.waitServing(addr+":2379", d.HasArg("join"))
	s.learn()
	return ""
}

// lockAddr keeps two runs of these tests on one machine out of each other's way.
func (s *session) lockAddr(addr string) {
	f, err := os.OpenFile(filepath.Join(os.TempDir(), "theseus-ctl-golden-"+addr+".lock"), os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { f.Close() })
}

// waitServing waits until the member has done all that it does by itself at the
// start: the storage version is the last of it.
func (s *session) waitServing(endpoint string, learner bool) {
	c, err := s.client()
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	deadline := time.Now().Add(time.Minute)
	for ; time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		resp, err := c.Status(ctx, endpoint)
		cancel()
		if err == nil && (resp.StorageVersion == "3.7.0" || learner && resp.Leader != 0) {
			return
		}
	}
	s.t.Fatalf("the server at %s does not serve", endpoint)
}

// waitWatchers waits until the server has n watchers.
func (s *session) waitWatchers(n int) {
	want := fmt.Sprintf("etcd_debugging_mvcc_watcher_total %d\n", n)
	deadline := time.Now().Add(time.Minute)
	for ; time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + s.addr + "/metrics")
		if err != nil {
			continue
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if strings.Contains(string(b), want) {
			return
		}
	}
	s.t.Fatalf("the server never had %d watchers", n)
}
