// Command demo is `make demo`: the project's main job in one go. It brings a real etcd
// 3.4 cluster of three up on loopback, and then types what an operator would: a script
// is reviewed, the upgrade to Theseus planned, rehearsed and applied under load, and one
// member is taken back and forth. It ends by itself, well under two minutes, and leaves
// nothing running and nothing on the disk.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"theseus/upgrade"
	"theseus/upgrade/host"
)

const (
	theseus = "build/theseus"
	etcd    = "build/peers/3.4/etcd"
	script  = "test/demo/upgrade-etcd.sh"
	members = 3
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	for _, p := range []string{theseus, etcd} {
		if _, err := os.Stat(p); err != nil {
			return fmt.Errorf("%s is missing: run make demo, which builds it, in the top folder", p)
		}
	}
	dir, err := os.MkdirTemp("", "theseus-demo-")
	if err != nil {
		return err
	}
	d := &demo{dir: dir, file: filepath.Join(dir, "prod.yaml")}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.up(ctx); err != nil {
		return err
	}
	l, err := startLoad(ctx, d.inv)
	if err != nil {
		return err
	}
	began := time.Now()
	steps := []struct {
		say  string
		args []string
		code int
	}{
		{"Somebody's script from the wiki. What would it do?", []string{"upgrade", "review", script}, 3},
		{"The cluster as it is now, every member asked for itself.", []string{"upgrade", "plan", "-f", d.file}, 0},
		{"The same plan on a copy of the cluster, made from a backup, before the real one meets it.", []string{"upgrade", "rehearse", "-f", d.file}, 0},
		{"Now the real one, with clients writing, reading and watching.", []string{"upgrade", "apply", "-f", d.file, "--yes"}, 0},
		{"Was that a mistake? One member back to etcd 3.4 ...", []string{"upgrade", "rollback", "-f", d.file, "--member", "s1"}, 0},
		{"... and forth again.", []string{"upgrade", "apply", "-f", d.file, "--yes"}, 0},
		{"How it stands.", []string{"upgrade", "status", "-f", d.file}, 0},
	}
	for _, s := range steps {
		if err := d.step(ctx, s.say, s.args, s.code); err != nil {
			return errors.Join(err, l.stop())
		}
	}
	if err := l.stop(); err != nil {
		return err
	}
	fmt.Printf("\n\nThree members went from etcd 3.4 to Theseus, one of them back and forth, in %s.\n%s\n", time.Since(began).Round(time.Second), l)
	if l.lost+l.missed > 0 {
		return errors.New("acknowledged writes were lost or not watched: that is a bug")
	}
	return nil
}

// demo is the cluster and what belongs to it.
type demo struct {
	dir, file string
	inv       *upgrade.Inventory
	hosts     map[string]host.Executor
}

// step types one command and holds its exit code against what it ought to be.
func (d *demo) step(ctx context.Context, say string, args []string, want int) error {
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	fmt.Printf("\n\n# %s\n$ theseus %s\n\n", say, strings.ReplaceAll(strings.Join(args, " "), d.file, "prod.yaml"))
	cmd := exec.Command(theseus, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, os.Stdout, os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if got := cmd.ProcessState.ExitCode(); got != want {
		return fmt.Errorf("theseus %s ended with %d, not %d", strings.Join(args[:2], " "), got, want)
	}
	return nil
}

// up writes the inventory and starts what it describes.
func (d *demo) up(ctx context.Context) error {
	hosts, err := freeHosts()
	if err != nil {
		return err
	}
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	var cluster []string
	for i, h := range hosts {
		cluster = append(cluster, fmt.Sprintf("s%d=http://%s:2380", i+1, h))
	}
	var y strings.Builder
	fmt.Fprintf(&y, "cluster: prod\nmembers:\n")
	for i, h := range hosts {
		name := "s" + strconv.Itoa(i+1)
		client, peer := "http://"+h+":2379", "http://"+h+":2380"
		args := []string{filepath.Join(here, etcd), "--name", name, "--data-dir", name + ".etcd", "--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", strings.Join(cluster, ","), "--initial-cluster-state", "new", "--snapshot-count", "5000"}
		fmt.Fprintf(&y, "  - name: %s\n    endpoint: %q\n    host: {kind: process, dir: ., pidFile: %s.pid, log: %s.log, command: [%s]}\n", name, client, name, name, quoted(args))
	}
	fmt.Fprintf(&y, "backup: {archive: \"dir:archive\"}\ntarget: {binary: %q}\n", filepath.Join(here, theseus))
	if err := os.WriteFile(d.file, []byte(y.String()), 0o600); err != nil {
		return err
	}
	if d.inv, err = upgrade.LoadInventory(d.file); err != nil {
		return err
	}
	if d.hosts, err = d.inv.Hosts(); err != nil {
		return err
	}
	fmt.Printf("# Three members of a real etcd 3.4 on loopback: %s\n", strings.Join(hosts, ", "))
	for _, m := range d.inv.Members {
		if err := d.hosts[m.Name].Start(ctx); err != nil {
			return fmt.Errorf("start %s: %w", m.Name, err)
		}
	}
	return nil
}

func quoted(words []string) string {
	var out []string
	for _, w := range words {
		out = append(out, strconv.Quote(w))
	}
	return strings.Join(out, ", ")
}

// freeHosts finds loopback addresses on which etcd's own ports are free.
func freeHosts() ([]string, error) {
	var found []string
	for range 1000 {
		h := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(250), 1+rand.IntN(250), 1+rand.IntN(250))
		free := true
		for _, port := range []string{":2379", ":2380"} {
			l, err := net.Listen("tcp", h+port)
			free = free && err == nil
			if err == nil {
				err = l.Close()
			}
			free = free && err == nil
		}
		if free {
			found = append(found, h)
		}
		if len(found) == members {
			return found, nil
		}
	}
	return nil, errors.New("no free loopback address: does this machine have 127.0.0.0/8?")
}

// close ends the members, whatever they run by now, and removes what was written.
func (d *demo) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	var errs []error
	for _, h := range d.hosts {
		if err := h.Stop(ctx); err != nil {
			errs = append(errs, end(h))
		}
		errs = append(errs, h.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(d.dir))...)
}

// end kills a member that did not stop; its process is one of ours.
func end(h host.Executor) error {
	st, err := h.Inspect(context.Background())
	if err != nil || !st.Running {
		return err
	}
	text, _, _ := strings.Cut(st.ID, "@")
	pid, err := strconv.Atoi(text)
	if err != nil {
		return fmt.Errorf("still runs: %s", cmp.Or(st.Detail, st.ID))
	}
	return syscall.Kill(pid, syscall.SIGKILL)
}
