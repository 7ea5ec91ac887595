package host

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"theseus/test/cluster"
)

// engine is the real engine of this machine, with the images, networks and containers
// of one test, all under one name that nothing else has.
type engine struct {
	t    *testing.T
	api  *client.Client
	name string

	images []string // by ID, because a name may move on
}

func newEngine(t *testing.T) *engine {
	t.Helper()
	api, err := client.New(client.FromEnv)
	must(t, err)
	if _, err := api.Ping(t.Context(), client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		t.Skipf("no container engine runs on this machine: %v", err)
	}
	e := &engine{t: t, api: api, name: fmt.Sprintf("theseus-test-%d-%d", os.Getpid(), time.Now().UnixNano())}
	t.Cleanup(e.close)
	return e
}

// close removes what has the test's name, and lets nothing of it stay behind.
func (e *engine) close() {
	ctx := context.Background()
	all, err := e.api.ContainerList(ctx, client.ContainerListOptions{All: true})
	must(e.t, err)
	for _, c := range all.Items {
		if strings.HasPrefix(strings.Join(c.Names, ""), "/"+e.name) {
			if e.t.Failed() {
				out, _ := exec.Command("docker", "logs", "--tail", "20", c.ID).CombinedOutput()
				e.t.Logf("%v %s %s\n%s", c.Names, c.State, c.Status, out)
			}
			_, err := e.api.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
			must(e.t, err)
		}
	}
	for _, id := range e.images {
		if _, err := e.api.ImageRemove(ctx, id, client.ImageRemoveOptions{Force: true}); err != nil && !errdefs.IsNotFound(err) {
			e.t.Error(err)
		}
	}
	networks, err := e.api.NetworkList(ctx, client.NetworkListOptions{})
	must(e.t, err)
	for _, n := range networks.Items {
		if strings.HasPrefix(n.Name, e.name) {
			_, err := e.api.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{})
			must(e.t, err)
		}
	}
	must(e.t, e.api.Close())
}

// image makes an image from scratch of one program at a path.
func (e *engine) image(tag, program, at string, changes ...string) string {
	e.t.Helper()
	raw, err := os.ReadFile(program)
	must(e.t, err)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	must(e.t, w.WriteHeader(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o777}))
	must(e.t, w.WriteHeader(&tar.Header{Name: strings.TrimPrefix(at, "/"), Mode: 0o755, Size: int64(len(raw))}))
	_, err = w.Write(raw)
	must(e.t, err)
	must(e.t, w.Close())
	ref := e.name + ":" + tag
	r, err := e.api.ImageImport(e.t.Context(), client.ImageImportSource{Source: &b, SourceName: "-"}, ref, client.ImageImportOptions{Changes: changes})
	must(e.t, err)
	_, err = io.Copy(io.Discard, r)
	must(e.t, err)
	must(e.t, r.Close())
	made, err := e.api.ImageInspect(e.t.Context(), ref)
	must(e.t, err)
	e.images = append(e.images, made.ID)
	return ref
}

// create makes a container of the test; name is a suffix.
func (e *engine) create(name string, c container.Config, h container.HostConfig, n *network.NetworkingConfig) string {
	e.t.Helper()
	_, err := e.api.ContainerCreate(e.t.Context(), client.ContainerCreateOptions{Name: e.name + name, Config: &c, HostConfig: &h, NetworkingConfig: n})
	must(e.t, err)
	return e.name + name
}

// names returns the containers of a member, without its own name in front.
func (e *engine) names(member string) map[string]container.InspectResponse {
	e.t.Helper()
	all, err := e.api.ContainerList(e.t.Context(), client.ContainerListOptions{All: true})
	must(e.t, err)
	out := map[string]container.InspectResponse{}
	for _, c := range all.Items {
		if rest, ok := strings.CutPrefix(c.Names[0], "/"+member); ok {
			got, err := e.api.ContainerInspect(e.t.Context(), c.ID, client.ContainerInspectOptions{})
			must(e.t, err)
			out[rest] = got.Container
		}
	}
	return out
}

// static returns a program that needs no libraries: program itself, or ours built so.
func static(t *testing.T) string {
	t.Helper()
	path := cluster.Theseus(t).Path
	f, err := elf.Open(path)
	must(t, err)
	defer func() { _ = f.Close() }()
	if f.Section(".interp") == nil {
		return path
	}
	out := filepath.Join(t.TempDir(), "theseus")
	cmd := exec.Command("go", "build", "-o", out, "./cmd/theseus")
	cmd.Dir, cmd.Env = cluster.Root(), append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build theseus: %v\n%s", err, text)
	}
	return out
}

// sleeper builds a small static program that stands for a member: it tells a version and
// ends on SIGTERM.
func sleeper(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(`package main

import ("fmt"; "os"; "os/signal"; "syscall"; "time")

func main() {
	if len(os.Args) > 1 && os.Args[len(os.Args)-1] == "--version" { fmt.Println("etcd Version: 3.9.9"); return }
	if len(os.Args) > 1 && os.Args[len(os.Args)-1] == "--crash" { fmt.Println("bad flag"); os.Exit(7) }
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	if len(os.Args) > 1 && os.Args[len(os.Args)-1] == "--late" { <-c }
	fmt.Println("ready")
	if len(os.Args) > 1 && os.Args[len(os.Args)-1] == "--deaf" { <-c; time.Sleep(time.Hour) }
	<-c
	fmt.Println("ended")
}
`), 0o600))
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "etcd"), filepath.Join(dir, "main.go"))
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GO111MODULE=off")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, text)
	}
	return filepath.Join(dir, "etcd")
}

// TestDockerRealMember swaps a real member there and back with its data on a bind mount,
// ours under its own name.
func TestDockerRealMember(t *testing.T) {
	e := newEngine(t)
	etcd := e.image("etcd", cluster.Peer(t, "3.7", "etcd"), "/usr/local/bin/etcd", `ENTRYPOINT ["/usr/local/bin/etcd"]`, "ENV FROM=old")
	ours := e.image("ours", static(t), "/theseus", `ENTRYPOINT ["/theseus"]`, "ENV FROM=new", "USER 1234")
	dir := t.TempDir()
	url, peer := freeURL(t), freeURL(t)
	name := e.create("-m", container.Config{Image: etcd, User: "", Env: []string{"ETCD_LOG_LEVEL=info"}, Cmd: []string{"--name=m",
		"--data-dir", "/data/m", "--listen-client-urls", url, "--advertise-client-urls", url, "--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer, "--initial-cluster", "m=" + peer}},
		container.HostConfig{NetworkMode: "host", Binds: []string{dir + ":/data"}, RestartPolicy: container.RestartPolicy{Name: "unless-stopped"}}, nil)
	x := open(t, Spec{Kind: "docker", Container: name})
	ctx := t.Context()
	t.Cleanup(func() { _ = x.Stop(context.Background()) })
	for i, p := range []Program{{Image: etcd}, {Image: ours}, {Image: etcd}, {Image: ours}} {
		version, err := x.Stage(ctx, p)
		must(t, err)
		must(t, x.Stop(ctx))
		must(t, x.Swap(ctx, p))
		must(t, x.Start(ctx))
		st := inspect(t, x)
		if !st.Running || st.Program != p || st.Args[0] != "--name=m" || st.DataDir != filepath.Join(dir, "m") || st.Free == 0 {
			t.Fatalf("State: %+v", st)
		}
		if from := map[bool]string{true: "old", false: "new"}[i%2 == 0]; st.Env["FROM"] != from || st.Env["ETCD_LOG_LEVEL"] != "info" {
			t.Fatalf("after %q: environment %v", version, st.Env)
		}
		putNth(t, url, i)
	}
	must(t, x.Finish(ctx))
	if left := e.names(name); len(left) != 1 || left[""].HostConfig.RestartPolicy.Name != "unless-stopped" {
		t.Fatalf("after Finish: %v", left)
	}
}

// tool is an executor that is killed after some requests that change something.
func tool(t *testing.T, name string, requests int) Executor {
	x := open(t, Spec{Kind: "docker", Container: name}).(*docker)
	x.opts = []client.Opt{client.WithHTTPRequestHook(func(r *http.Request) error {
		if requests <= 0 {
			return errKilled
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			requests--
		}
		return nil
	})}
	return x
}

var errKilled = errors.New("killed")

// TestDockerKilledAnywhere kills the tool before its first, second, third… change in the
// engine, and lets another one do the same step again.
func TestDockerKilledAnywhere(t *testing.T) {
	e := newEngine(t)
	program := sleeper(t)
	a := e.image("a", program, "/etcd", `CMD ["/etcd"]`)
	b := e.image("b", program, "/etcd", `CMD ["/etcd"]`, "LABEL of=b")
	must2 := func(r client.NetworkCreateResult, err error) { t.Helper(); must(t, err) }
	must2(e.api.NetworkCreate(t.Context(), e.name+"-n1", client.NetworkCreateOptions{}))
	must2(e.api.NetworkCreate(t.Context(), e.name+"-n2", client.NetworkCreateOptions{}))
	name := e.create("-k", container.Config{Image: a, Cmd: []string{"/etcd", "--data-dir", "/data"}},
		container.HostConfig{NetworkMode: container.NetworkMode(e.name + "-n1"), Binds: []string{t.TempDir() + ":/data"}, RestartPolicy: container.RestartPolicy{Name: "on-failure", MaximumRetryCount: 3}}, nil)
	_, err := e.api.NetworkConnect(t.Context(), e.name+"-n2", client.NetworkConnectOptions{Container: name, EndpointConfig: &network.EndpointSettings{Aliases: []string{"alias"}}})
	must(t, err)
	first := e.names(name)[""].ID
	sure := open(t, Spec{Kind: "docker", Container: name})
	must(t, sure.Start(t.Context()))
	steps := []struct {
		what string
		do   func(Executor) error
	}{
		{"stop", func(x Executor) error { return x.Stop(t.Context()) }},
		{"swap", func(x Executor) error { return x.Swap(t.Context(), Program{Image: b}) }},
		{"start", func(x Executor) error { return x.Start(t.Context()) }},
		{"stop again", func(x Executor) error { return x.Stop(t.Context()) }},
		{"swap back", func(x Executor) error { return x.Swap(t.Context(), Program{Image: a}) }},
		{"start again", func(x Executor) error { return x.Start(t.Context()) }},
		{"finish", func(x Executor) error { return x.Finish(t.Context()) }},
	}
	for _, s := range steps {
		kills := 0
		for ; ; kills++ {
			err := s.do(tool(t, name, kills))
			inspect(t, sure) // the member is always there
			if running := runningOf(e.names(name)); running > 1 {
				t.Fatalf("%s, killed before change %d: %d containers run", s.what, kills, running)
			}
			if err == nil {
				break
			}
			if !errors.Is(err, errKilled) && !strings.Contains(err.Error(), "killed") {
				t.Fatalf("%s, killed before change %d: %v", s.what, kills, err)
			}
		}
		t.Logf("%s: killed %d times", s.what, kills)
		must(t, s.do(sure))
		got := e.names(name)
		if live := got[""]; live.ID == "" || len(live.NetworkSettings.Networks) != 2 || len(live.NetworkSettings.Networks[e.name+"-n2"].Aliases) == 0 {
			t.Fatalf("after %s: %v, networks %v", s.what, got, got[""].NetworkSettings)
		}
		if strings.HasPrefix(s.what, "start") && (got[""].HostConfig.RestartPolicy != container.RestartPolicy{Name: "on-failure", MaximumRetryCount: 3}) {
			t.Fatalf("after %s: restart policy %v", s.what, got[""].HostConfig.RestartPolicy)
		}
		for suffix, c := range got {
			if suffix != "" && !c.HostConfig.RestartPolicy.IsNone() {
				t.Fatalf("after %s: the engine may restart %s", s.what, suffix)
			}
		}
	}
	if got := e.names(name); len(got) != 1 || got[""].ID != first {
		t.Fatalf("at the end: %d containers, the member's %s, want the first %s alone", len(got), got[""].ID, first)
	}
}

func runningOf(all map[string]container.InspectResponse) (n int) {
	for _, c := range all {
		if c.State.Running {
			n++
		}
	}
	return n
}

// TestDockerGivesUpInTheMiddle turns round after every change of a Swap: a Swap to what
// was there before leads back to the very container, whatever was made ready.
func TestDockerGivesUpInTheMiddle(t *testing.T) {
	e := newEngine(t)
	program := sleeper(t)
	a, b := e.image("a", program, "/etcd", `CMD ["/etcd"]`), e.image("b", program, "/etcd", `CMD ["/etcd"]`, "LABEL of=b")
	name := e.create("-g", container.Config{Image: a, Cmd: []string{"/etcd", "--data-dir", "/data"}}, container.HostConfig{Binds: []string{t.TempDir() + ":/data"}}, nil)
	first := e.names(name)[""].ID
	sure := open(t, Spec{Kind: "docker", Container: name})
	for round := range 2 { // the second time a kept container takes part
		for kills := 0; ; kills++ {
			err := tool(t, name, kills).Swap(t.Context(), Program{Image: b})
			must(t, sure.Swap(t.Context(), Program{Image: a}))
			got := e.names(name)
			if got[""].ID != first || got["-theseus-next"].ID != "" {
				t.Fatalf("round %d, turned round after %d changes: %v", round, kills, got)
			}
			if err == nil {
				break
			}
		}
		must(t, sure.Swap(t.Context(), Program{Image: b}))
		must(t, sure.Start(t.Context()))
		must(t, sure.Stop(t.Context()))
		must(t, sure.Swap(t.Context(), Program{Image: a}))
	}
}

// TestDockerCarriesEverythingOver makes a container with many settings again, and
// compares what the engine says of the two.
func TestDockerCarriesEverythingOver(t *testing.T) {
	e := newEngine(t)
	program := sleeper(t)
	a := e.image("a", program, "/bin/etcd", `CMD ["/bin/etcd"]`, "ENV IMAGE=a", "LABEL image=a", "EXPOSE 1", "VOLUME /extra")
	b := e.image("b", program, "/bin/etcd", `ENTRYPOINT ["/bin/wrong"]`, "ENV IMAGE=b", "LABEL image=b", "EXPOSE 2", "WORKDIR /elsewhere")
	subnet := fmt.Sprintf("10.213.%d.0/24", os.Getpid()%250)
	_, err := e.api.NetworkCreate(t.Context(), e.name+"-n", client.NetworkCreateOptions{IPAM: ipam(t, subnet)})
	must(t, err)
	stop, pids := 77, int64(99)
	conf := container.Config{Image: a, Cmd: []string{"etcd", "--data-dir=data", "--name", "x"}, Env: []string{"MINE=1"}, User: "0:0", WorkingDir: "/srv",
		Labels: map[string]string{"mine": "1"}, Hostname: "member-x", StopTimeout: &stop, StopSignal: "SIGINT",
		Healthcheck: &container.HealthConfig{Test: []string{"CMD", "/bin/etcd", "--version"}, Interval: time.Hour}}
	host := container.HostConfig{NetworkMode: container.NetworkMode(e.name + "-n"), Binds: []string{t.TempDir() + ":/srv/data:rw"},
		Mounts: []mount.Mount{{Type: mount.TypeTmpfs, Target: "/scratch"}}, Tmpfs: map[string]string{"/scratch2": "size=1m"},
		CapDrop: []string{"NET_RAW"}, CapAdd: []string{"SYS_NICE"}, ExtraHosts: []string{"peer:10.9.8.7"}, ShmSize: 1 << 20, OomScoreAdj: 5,
		RestartPolicy: container.RestartPolicy{Name: "no"}, SecurityOpt: []string{"no-new-privileges"}, GroupAdd: []string{"12"}, LogConfig: container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "1m"}},
		Resources: container.Resources{CPUShares: 500, PidsLimit: &pids, Ulimits: []*container.Ulimit{{Name: "nofile", Soft: 4000, Hard: 5000}}}}
	name := e.create("-e", conf, host, endpointAt(t, e.name+"-n", strings.Replace(subnet, ".0/24", ".77", 1)))
	x := open(t, Spec{Kind: "docker", Container: name})
	must(t, x.Start(t.Context())) // the engine adds to a container when it starts
	must(t, x.Stop(t.Context()))
	before := e.names(name)[""]
	must(t, x.Swap(t.Context(), Program{Image: b}))
	must(t, x.Start(t.Context()))
	must(t, x.Stop(t.Context()))
	after := e.names(name)[""]
	compareCarried(t, before, after, map[string]string{"Image": b, ofLabel: name})
}

// TestDockerRefusals are the containers that cannot be moved without losing something,
// and the programs that could not be started.
func TestDockerRefusals(t *testing.T) {
	e := newEngine(t)
	program := sleeper(t)
	a, b := e.image("a", program, "/etcd", `CMD ["/etcd"]`), e.image("b", program, "/etcd", `CMD ["/etcd"]`, "LABEL of=b")
	elsewhere := e.image("elsewhere", program, "/other", `CMD ["/other"]`)
	dir := t.TempDir()
	for _, c := range []struct {
		name string
		cmd  []string
		host container.HostConfig
		vols map[string]struct{}
		to   string
		want string
	}{
		{"layer", []string{"/etcd", "--data-dir=/data"}, container.HostConfig{}, nil, b, "has its data directory /data on no mount"},
		{"default", []string{"/etcd", "--name", "s1"}, container.HostConfig{Binds: []string{dir + ":/data"}}, nil, b, "has its data directory /s1.etcd on no mount"},
		{"tmpfs", []string{"/etcd", "--data-dir=/data/x"}, container.HostConfig{Tmpfs: map[string]string{"/data": ""}}, nil, b, "on a tmpfs, which ends with it"},
		{"anonymous", []string{"/etcd", "--data-dir=/data"}, container.HostConfig{}, map[string]struct{}{"/data": {}}, b, "on an anonymous volume"},
		{"unknown", []string{"/etcd", "--config-file=/c"}, container.HostConfig{}, map[string]struct{}{"/data": {}}, b, "no flag says whether its data is there"},
		{"rm", []string{"/etcd", "--data-dir=/data"}, container.HostConfig{Binds: []string{dir + ":/data"}, AutoRemove: true}, nil, b, "was run with --rm"},
		{"missing", []string{"/etcd", "--data-dir=/data"}, container.HostConfig{Binds: []string{dir + ":/data"}}, nil, e.name + ":none", "is not in the engine: run docker pull"},
		{"elsewhere", []string{"/etcd", "--data-dir=/data"}, container.HostConfig{Binds: []string{dir + ":/data"}}, nil, elsewhere, "needs that program in the image"},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := e.create("-r-"+c.name, container.Config{Image: a, Cmd: c.cmd, Volumes: c.vols}, c.host, nil)
			x := open(t, Spec{Kind: "docker", Container: name})
			if _, err := x.Stage(t.Context(), Program{Image: c.to}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Stage: %v, want %q", err, c.want)
			}
			if err := x.Swap(t.Context(), Program{Image: c.to}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Swap: %v, want %q", err, c.want)
			}
			if got := e.names(name); len(got) != 1 {
				t.Errorf("left behind: %v", got)
			}
		})
	}
	deaf := e.create("-deaf", container.Config{Image: a, Cmd: []string{"/etcd", "--data-dir=/data", "--deaf"}}, container.HostConfig{Binds: []string{dir + ":/data"}}, nil)
	x := open(t, Spec{Kind: "docker", Container: deaf})
	must(t, x.Start(t.Context()))
	waitFor(t, "the member's first line", func() bool { l, _ := x.Logs(t.Context(), 5); return len(l) == 1 && l[0] == "ready" })
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := x.Stop(short); !errors.Is(err, ErrStillRunning) {
		t.Errorf("Stop of a member that does not end: %v", err)
	}
	if err := x.Swap(t.Context(), Program{Image: b}); !errors.Is(err, ErrStillRunning) {
		t.Errorf("Swap of a running member: %v", err)
	}
	if st := inspect(t, x); !st.Running {
		t.Errorf("the member was killed: %+v", st)
	}
	crash := open(t, Spec{Kind: "docker", Container: e.create("-crash", container.Config{Image: a, Cmd: []string{"/etcd", "--crash"}}, container.HostConfig{}, nil)})
	if err := crash.Start(t.Context()); err == nil {
		waitFor(t, "its end", func() bool { return !inspect(t, crash).Running })
	}
	if _, err := open(t, Spec{Kind: "docker", Container: e.name + "-none"}).Inspect(t.Context()); err == nil || !strings.Contains(err.Error(), "there is no container") {
		t.Errorf("Inspect of nothing: %v", err)
	}
}

// TestDockerCrashLoop stops a member that its engine starts again and again.
func TestDockerCrashLoop(t *testing.T) {
	e := newEngine(t)
	a := e.image("a", sleeper(t), "/etcd", `CMD ["/etcd"]`)
	name := e.create("-l", container.Config{Image: a, Cmd: []string{"/etcd", "--crash"}}, container.HostConfig{RestartPolicy: container.RestartPolicy{Name: "always"}}, nil)
	_, err := e.api.ContainerStart(t.Context(), name, client.ContainerStartOptions{})
	must(t, err)
	waitFor(t, "some restarts", func() bool { return e.names(name)[""].RestartCount > 2 })
	x := open(t, Spec{Kind: "docker", Container: name})
	must(t, x.Stop(t.Context()))
	got := e.names(name)[""]
	if got.State.Running || got.State.Restarting || !got.HostConfig.RestartPolicy.IsNone() {
		t.Fatalf("after Stop: %+v, %+v", got.State, got.HostConfig.RestartPolicy)
	}
	must(t, x.Stop(t.Context()))
	if again := e.names(name)[""]; again.State.StartedAt != got.State.StartedAt {
		t.Fatalf("it was started at %s, after Stop at %s", again.State.StartedAt, got.State.FinishedAt)
	}
}

// TestDockerMovedTag gives the name of the member's image to another one: the member then
// goes by the image's ID, so that the way back is not to what the name means today.
func TestDockerMovedTag(t *testing.T) {
	e := newEngine(t)
	program := sleeper(t)
	ref := e.image("a", program, "/etcd", `CMD ["/etcd"]`)
	name := e.create("-t", container.Config{Image: ref, Cmd: []string{"/etcd", "--data-dir=/data"}}, container.HostConfig{Binds: []string{t.TempDir() + ":/data"}}, nil)
	first := e.names(name)[""]
	e.image("a", program, "/etcd", `CMD ["/etcd"]`, "LABEL of=b")
	x := open(t, Spec{Kind: "docker", Container: name})
	was := inspect(t, x).Program
	if was.Image != first.Image {
		t.Fatalf("Program %s, want the image's ID %s", was, first.Image)
	}
	must(t, x.Swap(t.Context(), Program{Image: ref}))
	if st := inspect(t, x); st.Program.Image != ref || e.names(name)[""].Image == first.Image {
		t.Fatalf("after Swap to what the name means now: %+v", st)
	}
	must(t, x.Swap(t.Context(), was))
	if got := e.names(name)[""]; got.ID != first.ID {
		t.Fatalf("after the way back: container %s, want %s", got.ID, first.ID)
	}
}

// TestDockerStopsAtOnce asks a member to end that does not get the first signal, as a
// process 1 that does not listen to signals yet.
func TestDockerStopsAtOnce(t *testing.T) {
	e := newEngine(t)
	a := e.image("a", sleeper(t), "/etcd", `CMD ["/etcd"]`)
	x := open(t, Spec{Kind: "docker", Container: e.create("-o", container.Config{Image: a, Cmd: []string{"/etcd", "--late"}}, container.HostConfig{}, nil)})
	must(t, x.Start(t.Context()))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, x.Stop(ctx))
}

// TestDockerOverSSH moves a container through an sshd, and breaks the connection between
// two steps.
func TestDockerOverSSH(t *testing.T) {
	e := newEngine(t)
	if !strings.HasPrefix(e.api.DaemonHost(), "unix://") {
		t.Skip("the engine of this machine has no socket to reach through sshd")
	}
	program := sleeper(t)
	a, b := e.image("a", program, "/etcd", `CMD ["/etcd"]`), e.image("b", program, "/etcd", `CMD ["/etcd"]`, "LABEL of=b")
	dir := t.TempDir()
	name := e.create("-s", container.Config{Image: a, Cmd: []string{"/etcd", "--data-dir=/data"}}, container.HostConfig{Binds: []string{dir + ":/data"}}, nil)
	sshd := startSSHD(t)
	x := open(t, Spec{Kind: "docker", Container: name, SSH: sshd.target, SSHKey: filepath.Join(sshd.dir, "id"), Socket: strings.TrimPrefix(e.api.DaemonHost(), "unix://")}).(*docker)
	for _, p := range []Program{{Image: b}, {Image: a}} {
		must(t, x.Start(t.Context()))
		must(t, x.remote.Close())
		_, err := x.Stage(t.Context(), p)
		must(t, err)
		must(t, x.Stop(t.Context()))
		must(t, x.Swap(t.Context(), p))
		if st := inspect(t, x); st.Program != p || st.DataDir != dir || st.Free == 0 {
			t.Fatalf("State: %+v", st)
		}
	}
	must(t, x.Finish(t.Context()))
}
