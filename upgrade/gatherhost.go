package upgrade

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"theseus/upgrade/host"
	"theseus/upgrade/plan"
	"theseus/version"
)

// host asks the member's host what runs there, and puts the target in place.
func (g *gatherer) host(ctx context.Context, m *plan.Member, x host.Executor) {
	var st host.State
	err := bounded(ctx, hostTimeout, func(ctx context.Context) (err error) {
		st, err = x.Inspect(ctx)
		return err
	})
	if err != nil {
		m.HostErr = oneLine(err)
		return
	}
	m.Running, m.Binary, m.Image = st.Running, st.Program.Binary, st.Program.Image
	m.Args, m.Env, m.Free = st.Args, st.Env, st.Free
	m.Snapshot = g.snapshot(m.Name, st.DataDir)
	m.Staged = map[string]string{}
	for _, p := range append([]Program{g.inv.Target}, g.inv.Hops...) {
		if p = p.of(st.Program); p.Binary == "" && p.Image == "" {
			continue
		}
		text := ""
		err := bounded(ctx, stageTimeout, func(ctx context.Context) (err error) {
			text, err = x.Stage(ctx, p.host())
			return err
		})
		if err != nil {
			text = "error: " + oneLine(err)
		}
		m.Staged[p.host().String()] = strings.TrimSpace(text)
	}
}

var snapName = regexp.MustCompile(`^[0-9a-f]{16}-([0-9a-f]{16})\.snap$`)

// snapshot is the index of the newest snapshot in a data directory of this machine:
// -1 says that there is none, 0 that the directory could not be read.
func (g *gatherer) snapshot(name, dir string) int64 {
	for _, m := range g.inv.Members {
		if m.Name == name && m.Host.SSH != "" {
			return 0 // it is a path of another machine
		}
	}
	files, err := os.ReadDir(filepath.Join(dir, "member", "snap"))
	if err != nil || dir == "" {
		return 0
	}
	newest := int64(-1)
	for _, f := range files {
		if m := snapName.FindStringSubmatch(f.Name()); m != nil {
			if i, err := strconv.ParseInt(m[1], 16, 64); err == nil {
				newest = max(newest, i)
			}
		}
	}
	return newest
}

// targets fills in the versions of the target and the hops.
func (g *gatherer) targets(ctx context.Context) {
	g.facts.Target = g.target(ctx, g.inv.Target)
	for _, h := range g.inv.Hops {
		g.facts.Hops = append(g.facts.Hops, g.target(ctx, h))
	}
}

// target learns a program's version from the members' hosts, or from the program
// itself if it is on this machine, or else from the inventory.
func (g *gatherer) target(ctx context.Context, p Program) plan.Target {
	t := plan.Target{Binary: p.Binary, Image: p.Image}
	if p.Binary == "" && p.Image == "" {
		return t
	}
	text := ""
	for _, m := range g.facts.Members {
		for _, name := range []string{p.Binary, p.Image} {
			if s, ok := m.Staged[name]; ok && text == "" && !strings.HasPrefix(s, "error: ") {
				text = s
			}
		}
	}
	if text == "" && p.Binary != "" {
		_ = bounded(ctx, askTimeout, func(ctx context.Context) error {
			out, err := exec.CommandContext(ctx, p.Binary, "--version").Output()
			text = string(out)
			return err
		})
	}
	t.Version, t.Product, t.Theseus = plan.ReadVersion(text)
	if v, err := version.Parse(p.Version); err == nil {
		t.Version = v
	}
	if text == "" && strings.Contains(p.Image, "theseus") { // nobody could ask the image
		t.Theseus = true
	}
	return t
}

// archive looks at the place of backups, which is on this machine.
func archive(url string) plan.Archive {
	a := plan.Archive{URL: url}
	dir, ok := strings.CutPrefix(url, "dir:")
	if !ok {
		return a
	}
	for { // it is made by the first backup: the file system is that of its parents
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if err == nil {
			a.Free = int64(st.Bavail) * int64(st.Bsize)
			if err = unix.Access(dir, unix.W_OK); err != nil {
				a.Err = dir + " cannot be written: " + err.Error()
			}
			return a
		}
		if !os.IsNotExist(err) || filepath.Dir(dir) == dir {
			a.Err = dir + ": " + err.Error()
			return a
		}
		dir = filepath.Dir(dir)
	}
}
