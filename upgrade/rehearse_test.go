package upgrade

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"theseus/backup"
	"theseus/test/cluster"
	"theseus/upgrade/host"
	"theseus/upgrade/plan"
)

// production is a cluster of real processes and the file of its inventory.
func production(t *testing.T, o cluster.Options, target string) (*cluster.Cluster, string) {
	t.Helper()
	c := cluster.New(t, o)
	dir := t.TempDir()
	inv := &Inventory{Cluster: "prod", Target: Program{Binary: target}}
	inv.Backup.Archive = "dir:" + filepath.Join(dir, "archive")
	for _, m := range c.Members {
		pid := filepath.Join(dir, m.Name+".pid")
		if err := os.WriteFile(pid, fmt.Append(nil, m.PID()), 0o600); err != nil {
			t.Fatal(err)
		}
		inv.Members = append(inv.Members, InventoryMember{Name: m.Name, Endpoint: m.ClientURL(),
			Host: host.Spec{Kind: "process", Command: append([]string{m.Binary.Path}, m.Flags()...), PIDFile: pid}})
	}
	text, err := yaml.Marshal(inv)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "upgrade.yaml"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	cli := c.Client()
	for i := range 50 {
		if _, err := cli.Put(t.Context(), fmt.Sprintf("k%02d", i), strings.Repeat("v", i)); err != nil {
			t.Fatal(err)
		}
	}
	return c, filepath.Join(dir, "upgrade.yaml")
}

// untouched checks that production is as it was: the same processes, the same revision.
func untouched(t *testing.T, c *cluster.Cluster, pids []int) {
	t.Helper()
	for i, m := range c.Members {
		if !m.Running() || m.PID() != pids[i] {
			t.Errorf("%s was touched", m.Name)
		}
	}
	r, err := c.Client().Get(t.Context(), "k", nil...)
	if err != nil || r.Header.Revision != 51 {
		t.Errorf("production is at %v %v, want revision 51", r, err)
	}
}

func pids(c *cluster.Cluster) (all []int) {
	for _, m := range c.Members {
		all = append(all, m.PID())
	}
	return all
}

// scratches are the directories that rehearsals leave in dir.
func scratches(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, scratchPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestRehearse carries the way from real etcd 3.4 to Theseus out on a copy, with the
// members' flags, and finds nothing.
func TestRehearse(t *testing.T) {
	t.Parallel()
	c, file := production(t, cluster.Options{Size: 3, Binary: cluster.Etcd(t, "3.4"), Args: []string{"--snapshot-count=5000", "--quota-backend-bytes", "100000000"}}, cluster.Theseus(t).Path)
	was, tmp := pids(c), t.TempDir()
	inv, err := LoadInventory(file)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	r, err := Rehearse(t.Context(), RehearseOptions{Inventory: inv, Dir: tmp, Out: &out})
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if !r.Passed || len(r.Predictions) > 0 {
		t.Errorf("predicted: %+v\nremarks: %+v\n%s", r.Predictions, r.Remarks, out.String())
	}
	if r.Load == nil || r.Load.Acked < 10 || r.Load.Lost+r.Load.Missed > 0 {
		t.Errorf("load: %+v", r.Load)
	}
	if r.Back == "" || strings.Contains(r.Back, " ") {
		t.Errorf("nobody went back and forth: %q", r.Back)
	}
	if diff := cmp.Diff([]string{"--snapshot-count=5000", "--quota-backend-bytes", "100000000"}, r.Members[0].Flags); diff != "" {
		t.Error("flags:", diff)
	}
	if left := scratches(t, tmp); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	untouched(t, c, was)
	if testing.Verbose() {
		_ = r.show(&out)
		t.Log(out.String())
	}
}

// TestRehearseHops carries other ways out on copies: real etcd to real etcd, and from
// Theseus back. It takes a minute or two, since real etcd ends slowly with streams open.
func TestRehearseHops(t *testing.T) {
	if os.Getenv("THESEUS_FULL") == "" {
		t.Skip("set THESEUS_FULL=1 for the other ways")
	}
	theseus := cluster.Theseus(t)
	for _, k := range []struct {
		from, to cluster.Binary
	}{
		{cluster.Etcd(t, "3.5"), theseus}, {cluster.Etcd(t, "3.6"), theseus}, {cluster.Etcd(t, "3.6"), cluster.Etcd(t, "3.7")}, {theseus, cluster.Etcd(t, "3.6")},
	} {
		t.Run(k.from.Name+" to "+k.to.Name, func(t *testing.T) {
			_, file := production(t, cluster.Options{Size: 3, Binary: k.from}, k.to.Path)
			inv, err := LoadInventory(file)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			r, err := Rehearse(t.Context(), RehearseOptions{Inventory: inv, Dir: t.TempDir(), Out: &out})
			_ = r.show(&out)
			if err != nil || len(r.Predictions) > 0 || r.Load == nil {
				t.Errorf("%v\n%s", err, out.String())
			}
		})
	}
}

// script writes a program that tells the version of another and then does its own.
func script(t *testing.T, real, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "etcd")
	text := "#!/bin/sh\nif [ \"$1\" = --version ]; then exec " + real + " --version; fi\n" + body + "\n"
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRehearsePredicts rehearses a target that ends right after its start: production
// is told before it meets that.
func TestRehearsePredicts(t *testing.T) {
	bad := script(t, cluster.Theseus(t).Path, "echo 'panic: no such thing' >&2; exit 2")
	c, file := production(t, cluster.Options{Size: 3, Binary: cluster.Etcd(t, "3.4")}, bad)
	was, tmp := pids(c), t.TempDir()
	t.Setenv("TMPDIR", tmp)
	var out, errs bytes.Buffer
	if code := Main([]string{"rehearse", "-f", file, "-o", "json"}, &out, &errs); code != 3 {
		t.Fatalf("exit code %d, want 3\n%s%s", code, out.String(), errs.String())
	}
	lines := bytes.Split(bytes.TrimSpace(out.Bytes()), []byte("\n"))
	var r Rehearsal
	if err := json.Unmarshal(lines[len(lines)-1], &r); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if len(r.Predictions) == 0 || !strings.Contains(r.Predictions[0].Step, "m") {
		t.Fatalf("predicted %+v", r.Predictions)
	}
	if testing.Verbose() {
		t.Log(out.String())
	}
	p := r.Predictions[0]
	if !strings.Contains(strings.Join(p.Log, "\n")+p.Seen, "no such thing") || !strings.Contains(p.Means, "runs what it ran before") {
		t.Errorf("predicted %+v", p)
	}
	if r.Load == nil || r.Load.Lost+r.Load.Missed > 0 {
		t.Errorf("load: %+v", r.Load)
	}
	if left := scratches(t, tmp); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	untouched(t, c, was)
}

// TestRehearseInterrupted ends a rehearsal in its middle: nothing of it is left.
func TestRehearseInterrupted(t *testing.T) {
	t.Parallel()
	c, file := production(t, cluster.Options{Size: 1, Binary: cluster.Etcd(t, "3.4")}, cluster.Theseus(t).Path)
	was, tmp := pids(c), t.TempDir()
	inv, err := LoadInventory(file)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	enough := errors.New("enough")
	w := writer(func(p []byte) {
		if bytes.Contains(p, []byte("[2/")) {
			cancel(enough)
		}
	})
	if _, err := Rehearse(ctx, RehearseOptions{Inventory: inv, Dir: tmp, Out: w}); !errors.Is(err, enough) {
		t.Errorf("error is %v", err)
	}
	if left := scratches(t, tmp); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	untouched(t, c, was)
	all, err := backup.List(inv.Backup.Archive)
	if err != nil || len(all) != 1 {
		t.Fatalf("backups: %v %v", all, err)
	}
	r, err := Rehearse(t.Context(), RehearseOptions{Inventory: inv, Dir: tmp, Backup: all[0].ID, Keep: true})
	if err != nil || !r.Passed || r.Backup != all[0].ID || r.Kept == "" {
		t.Errorf("from the backup that stayed: %v %+v", err, r)
	}
	if left := scratches(t, tmp); len(left) != 1 || left[0] != r.Kept {
		t.Errorf("kept: %v, want %s", left, r.Kept)
	}
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

// TestLoadDuring tells the failures that real etcd is the cause of from those of ours.
func TestLoadDuring(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	old, new := &plan.Target{}, &plan.Target{Theseus: true}
	steps, recs := map[string]plan.Step{}, []record{}
	for i, s := range []plan.Step{{Kind: plan.MoveLeader, Member: "a"}, {Kind: plan.Stop, Member: "a"}, {Kind: plan.Swap, Member: "a", Before: old, Target: new},
		{Kind: plan.Start, Member: "a"}, {Kind: plan.Ready, Member: "a"}, {Kind: plan.Stop, Member: "a"}} {
		s.ID = fmt.Sprint(i)
		steps[s.ID] = s
		recs = append(recs, record{Kind: recIntent, Step: s.ID, Time: at(10 * i)}, record{Kind: recDone, Step: s.ID, Time: at(10*i + 9)})
	}
	for _, k := range []struct {
		began, ended int
		text, step   string
		felt         bool
	}{
		{1, 2, "write: raft proposal dropped", "0", true},
		{8, 12, "write: context deadline exceeded", "0", true},
		{11, 12, "write: context deadline exceeded", "1", false},
		{12, 13, "write: error reading from server: EOF", "1", true},
		{32, 33, "write: error reading from server: EOF", "3", false},
		{51, 52, "write: error reading from server: EOF", "5", false}, // Theseus is ended
	} {
		r := LoadResult{Failures: []LoadFailed{{began: at(k.began), Time: at(k.ended), Text: k.text}}}
		r.during(recs, steps)
		if f := r.Failures[0]; f.felt != k.felt || !strings.HasPrefix(f.Step, k.step+" ") {
			t.Errorf("%+v: step %q, felt %v", k, f.Step, f.felt)
		}
	}
}

// TestTransfer says which flags go along to a copy.
func TestTransfer(t *testing.T) {
	flags, env, left := transfer(
		[]string{"--name", "s1", "-data-dir=/var/lib/etcd", "--quota-backend-bytes", "8000000000", "--enable-pprof", "--cert-file=/x", "--client-cert-auth",
			"--auto-compaction-retention=1h", "--initial-cluster", "a=b", "--proxy-refresh-interval=3", "--birth-record=/var/lib/etcd.birth", "--unheard-of", "x", "stray"},
		map[string]string{"ETCD_HEARTBEAT_INTERVAL": "200", "ETCD_INITIAL_CLUSTER_TOKEN": "t", "HOME": "/root", "GOGC": "50"})
	if diff := cmp.Diff([]string{"--quota-backend-bytes", "8000000000", "--enable-pprof", "--auto-compaction-retention=1h", "--unheard-of", "x", "stray"}, flags); diff != "" {
		t.Error("flags:", diff)
	}
	if diff := cmp.Diff([]string{"ETCD_HEARTBEAT_INTERVAL=200", "GOGC=50"}, env); diff != "" {
		t.Error("environment:", diff)
	}
	var names []string
	for _, l := range left {
		name, _, _ := strings.Cut(l, ":")
		names = append(names, name)
	}
	want := []string{"--name", "--data-dir", "--cert-file", "--client-cert-auth", "--initial-cluster", "--proxy-refresh-interval", "--birth-record", "ETCD_INITIAL_CLUSTER_TOKEN"}
	if !slices.Equal(want, names) {
		t.Errorf("left out %v, want %v", names, want)
	}
}
