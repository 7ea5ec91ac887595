package upgrade

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"theseus/backup"
	"theseus/upgrade/host"
	"theseus/upgrade/plan"
	"theseus/version"
)

const (
	scratchPrefix  = "theseus-rehearse-"
	scratchCatchup = 2 * time.Minute // what a copy on one machine may take to be level
	scratchServe   = time.Minute     // for the restored cluster to be healthy
	scratchVersion = 30 * time.Second
	scratchStop    = 12 * time.Second // then it is killed: it is ours, and holds a copy
	scratchLog     = 64 << 20         // bytes that a member's log takes beside the data, twice
)

// scratchMember is the copy of one member.
type scratchMember struct {
	Name    string   `json:"name"`
	Program string   `json:"program"` // that it starts with
	Flags   []string `json:"flags"`   // that came along
	LeftOut []string `json:"leftOut,omitempty"`
	env     []string
	words   []string // before the flags
	addr    string
}

func (m scratchMember) client() string { return "http://" + m.addr + ":2379" }
func (m scratchMember) peer() string   { return "http://" + m.addr + ":2380" }

// scratch is a cluster of this machine's that was made from a backup.
type scratch struct {
	dir     string
	members []scratchMember
	inv     *Inventory
	hosts   map[string]host.Executor
}

// programs finds what each copy starts with: the production member's own program where
// it is on this machine, or else the one the operator names.
func programs(ctx context.Context, inv *Inventory, f plan.Facts, from string) ([]scratchMember, error) {
	common := mostCommon(f)
	var all []scratchMember
	for i, m := range f.Members {
		want := m.Server
		if want.IsZero() {
			want = common
		}
		path := from
		if h := inv.Members[i].Host; path == "" && h.SSH == "" && m.Image == "" {
			path = m.Binary
		}
		if path == "" {
			return nil, fmt.Errorf("the program of %s is not on this machine: name one of etcd %s with --from-binary", m.Name, want)
		}
		text, err := tellVersion(ctx, path)
		if err != nil {
			return nil, fmt.Errorf("the program of %s: %w: name one of etcd %s with --from-binary", m.Name, err, want)
		}
		is, _, ours := plan.ReadVersion(text)
		if !ours && !is.SameMinor(want) || m.Err == "" && ours != (m.Theseus != "") {
			return nil, fmt.Errorf("%s is %s and %s runs %s: name the same with --from-binary", path, firstLine(text), m.Name, m.Runs())
		}
		s := scratchMember{Name: m.Name, Program: path}
		if ours && filepath.Base(path) != "etcd" {
			s.words = []string{"serve"}
		}
		s.Flags, s.env, s.LeftOut = transfer(m.Args, m.Env)
		if len(s.Flags) == 0 {
			s.Flags = []string{}
		}
		all = append(all, s)
	}
	return all, nil
}

func mostCommon(f plan.Facts) (best version.Version) {
	n := map[version.Version]int{}
	for _, m := range f.Members {
		if n[m.Server]++; !m.Server.IsZero() && n[m.Server] > n[best] {
			best = m.Server
		}
	}
	return best
}

// tellVersion asks a program of this machine for its version.
func tellVersion(ctx context.Context, path string) (text string, err error) {
	err = bounded(ctx, askTimeout, func(ctx context.Context) error {
		out, err := exec.CommandContext(ctx, path, "--version").Output()
		text = string(out)
		return err
	})
	return text, err
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}

// makeScratch restores a backup for every member and writes the inventory of the copy.
// Nothing runs yet. On error nothing is left.
func makeScratch(o RehearseOptions, m backup.Manifest, members []scratchMember, limits plan.Limits) (s *scratch, err error) {
	dir, err := os.MkdirTemp(o.Dir, scratchPrefix)
	if err != nil {
		return nil, fmt.Errorf("make a directory for the scratch cluster: %w", err)
	}
	s = &scratch{dir: dir, members: members, hosts: map[string]host.Executor{}}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	if err := roomFor(dir, int64(len(members))*2*(m.Size+scratchLog)); err != nil {
		return nil, err
	}
	if err := s.addresses(); err != nil {
		return nil, err
	}
	var parts []string
	for _, c := range members {
		parts = append(parts, c.Name+"="+c.peer())
	}
	cluster := strings.Join(parts, ",")
	token := filepath.Base(dir) // of its own: no copy can ever join the real cluster
	for _, c := range members {
		err := backup.Restore(o.Inventory.Backup.Archive, m.ID, backup.RestoreOptions{
			DataDir: s.dataDir(c), Name: c.Name, Cluster: cluster, PeerURLs: c.peer(), Token: token})
		if err != nil {
			return nil, fmt.Errorf("restore a copy of %s: %w", c.Name, err)
		}
	}
	return s, s.inventory(o, cluster, token, limits)
}

func roomFor(dir string, need int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("ask how much is free in %s: %w", dir, err)
	}
	if free := int64(st.Bavail) * int64(st.Bsize); free < need {
		return fmt.Errorf("the scratch cluster needs %s and %s has %s free: name another place with TMPDIR", plan.Size(need), dir, plan.Size(free))
	}
	return nil
}

// addresses gives every copy a loopback address of its own, on which etcd's own ports
// are free.
func (s *scratch) addresses() error {
	var held []net.Listener
	defer func() {
		for _, l := range held {
			_ = l.Close()
		}
	}()
	for i := range s.members {
		for range 1000 {
			addr := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(250), 1+rand.IntN(250), 1+rand.IntN(250))
			a, err := net.Listen("tcp", addr+":2379")
			if err != nil {
				continue
			}
			held = append(held, a)
			b, err := net.Listen("tcp", addr+":2380")
			if err != nil {
				continue
			}
			held = append(held, b)
			s.members[i].addr = addr
			break
		}
		if s.members[i].addr == "" {
			return errors.New("find a free loopback address: none of 1000 could be listened on: does this machine have 127.0.0.0/8?")
		}
	}
	return nil
}

func (s *scratch) dataDir(m scratchMember) string { return filepath.Join(s.dir, m.Name+".etcd") }

// inventory makes the copy's own, and writes it beside the data for those who keep it.
func (s *scratch) inventory(o RehearseOptions, cluster, token string, limits plan.Limits) error {
	inv := &Inventory{Cluster: o.Inventory.Cluster + "-rehearsal", Auth: o.Inventory.Auth, State: filepath.Join(s.dir, "state")}
	inv.Target, inv.Hops = o.Inventory.Target, slices.Clone(o.Inventory.Hops)
	if o.To != "" {
		inv.Target = Program{Binary: o.To}
	}
	for i, p := range append([]Program{inv.Target}, inv.Hops...) {
		if _, err := os.Stat(p.Binary); p.Binary == "" || err != nil {
			flag := "--to-binary"
			if i > 0 {
				flag = "a binary of this machine in hops"
			}
			return fmt.Errorf("%s is not a program on this machine: name the same version with %s", p.host(), flag)
		}
	}
	inv.Limits.Stall, inv.Limits.Stop = limits.Stall.String(), limits.Stop.String()
	inv.Limits.Catchup = min(limits.Catchup, scratchCatchup).String()
	for _, m := range s.members {
		args := append([]string{m.Program}, m.words...)
		args = append(args, "--name", m.Name, "--data-dir", s.dataDir(m),
			"--listen-client-urls", m.client(), "--advertise-client-urls", m.client(),
			"--listen-peer-urls", m.peer(), "--initial-advertise-peer-urls", m.peer(),
			"--initial-cluster", cluster, "--initial-cluster-token", token, "--initial-cluster-state", "existing")
		base := filepath.Join(s.dir, m.Name)
		inv.Members = append(inv.Members, InventoryMember{Name: m.Name, Endpoint: m.client(), Host: host.Spec{
			Kind: "process", Command: append(args, m.Flags...), Env: m.env, Dir: s.dir, PIDFile: base + ".pid", Log: base + ".log"}})
	}
	text, err := yaml.Marshal(inv)
	if err == nil {
		err = os.WriteFile(s.file(), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write the scratch cluster's inventory: %w", err)
	}
	if s.inv, err = LoadInventory(s.file()); err != nil {
		return err
	}
	s.hosts, err = s.inv.Hosts()
	return err
}

func (s *scratch) file() string { return filepath.Join(s.dir, "inventory.yaml") }

// start brings the copy up and waits until all members are well and the cluster version
// is what it is in production. A version that does not come is told, and is no error.
func (s *scratch) start(ctx context.Context, want version.Version) (unlike string, err error) {
	for _, m := range s.members {
		if err := bounded(ctx, hostTimeout, s.hosts[m.Name].Start); err != nil {
			return "", fmt.Errorf("start the copy of %s: %w", m.Name, err)
		}
	}
	w, err := newLiveWire(s.inv)
	if err != nil {
		return "", err
	}
	defer w.close()
	began := time.Now()
	for {
		bad, at := "", ""
		for _, m := range s.members {
			v := w.look(ctx, m.Name)
			if text := trouble(v); text != "" {
				bad = text
			} else if !v.Cluster.SameMinor(want) {
				at = v.Cluster.MinorString()
			}
		}
		waited := time.Since(began)
		switch {
		case ctx.Err() != nil:
			return "", context.Cause(ctx)
		case bad == "" && at == "":
			return "", nil
		case bad == "" && waited > scratchVersion:
			return fmt.Sprintf("its cluster version is %s, the real one's %s", at, want.MinorString()), nil
		case bad != "" && waited > scratchServe:
			return "", fmt.Errorf("the restored copy is not well after %s: %s", short(waited), bad)
		}
		if name, said := s.ended(ctx); name != "" {
			return "", fmt.Errorf("the copy of %s ended: %s", name, said)
		}
		t := time.NewTimer(pollEvery)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// ended names a copy that does not run, and its last words.
func (s *scratch) ended(ctx context.Context) (name, said string) {
	for _, m := range s.members {
		if st, err := s.hosts[m.Name].Inspect(ctx); err == nil && !st.Running {
			return m.Name, st.Detail
		}
	}
	return "", ""
}

// logs are a copy's last lines.
func (s *scratch) logs(name string) []string {
	x := s.hosts[name]
	if x == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookTimeout)
	defer cancel()
	lines, err := x.Logs(ctx, 5)
	if err != nil {
		return nil
	}
	return lines
}

// close ends what runs, and removes everything unless it is to be kept.
func (s *scratch) close(keep bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), scratchStop)
	defer cancel()
	errs := make([]error, len(s.members))
	each(len(s.members), func(i int) {
		x := s.hosts[s.members[i].Name]
		if x == nil {
			return
		}
		if err := x.Stop(ctx); err != nil {
			errs[i] = s.kill(x)
		}
		_ = x.Close()
	})
	if keep {
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// kill ends a copy that did not end by itself: its process is our own, by the pid that
// its executor found.
func (s *scratch) kill(x host.Executor) error {
	st, err := x.Inspect(context.Background())
	if err != nil || !st.Running {
		return err
	}
	text, _, _ := strings.Cut(st.ID, "@")
	pid, err := strconv.Atoi(text)
	if err != nil || pid <= 1 {
		return fmt.Errorf("end a scratch member: %s still runs: end it by hand", st.Detail)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		return fmt.Errorf("end a scratch member: kill %d: %w", pid, err)
	}
	return nil
}
