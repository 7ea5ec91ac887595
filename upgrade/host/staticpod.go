package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// staticPod runs a member as a static pod of a kubelet: a manifest in the folder that
// the kubelet watches. Stop moves it out, Swap edits its image, Start moves it in. What
// runs is asked of the container runtime, because the kubelet acts when it gets to it.
//
// A manifest that is out stands in the folder theseus-upgrade beside the watched one,
// never within it. The kubelet passes over names that begin with a dot, so a manifest
// comes in under such a name and is renamed: it never sees half of one.
type staticPod struct {
	shell          *shell
	manifest, side string // the manifest in its place, and where it stands while it is out
	crictl         []string
	try            []string
}

func newStaticPod(spec Spec) (Executor, error) {
	m := path.Clean(spec.Manifest)
	folder := path.Dir(m)
	if !path.IsAbs(m) || path.Dir(folder) == folder {
		return nil, fmt.Errorf("host.manifest: %q: write the absolute path of the manifest, such as /etc/kubernetes/manifests/etcd.yaml", spec.Manifest)
	}
	x := &staticPod{shell: newShell(spec), manifest: m, side: path.Join(path.Dir(folder), "theseus-upgrade", path.Base(m)), crictl: spec.Crictl, try: spec.TryImage}
	if len(x.crictl) == 0 {
		x.crictl = []string{"crictl"}
	}
	if len(x.try) == 0 {
		x.try = []string{"ctr", "-n", "k8s.io", "run", "--rm", "{image}", "theseus-upgrade-stage"}
	}
	if !slices.Contains(x.try, "{image}") {
		return nil, errors.New("host.tryImage: has no {image}: write it where the image stands in the command")
	}
	return x, nil
}

// manifestFile is the manifest, and whether it is where the kubelet looks.
type manifestFile struct {
	*podManifest
	text []byte
	in   bool
}

// read reads the manifest where it is. In its place it counts before one that is out:
// a Start that was killed leaves both, and a Stop too, with the same text.
func (x *staticPod) read(ctx context.Context) (manifestFile, error) {
	f := manifestFile{in: true}
	text, err := x.shell.readFile(ctx, x.manifest)
	if errors.Is(err, os.ErrNotExist) {
		f.in = false
		text, err = x.shell.readFile(ctx, x.side)
	}
	if errors.Is(err, os.ErrNotExist) {
		return f, fmt.Errorf("look for the manifest: neither %s nor %s is there%s: write its path as host.manifest", x.manifest, x.side, x.shell.where())
	}
	if err != nil {
		return f, err
	}
	if f.podManifest, err = parseManifest(text); err != nil {
		return f, fmt.Errorf("read %s%s: %w", x.manifest, x.shell.where(), err)
	}
	f.text = text
	return f, nil
}

// criContainer and criSandbox are what crictl says of a container and of a pod.
type criContainer struct {
	ID        string            `json:"id"`
	State     string            `json:"state"`
	CreatedAt string            `json:"createdAt"` // nanoseconds
	Labels    map[string]string `json:"labels"`
}

type criSandbox struct {
	ID     string            `json:"id"`
	State  string            `json:"state"`
	Labels map[string]string `json:"labels"`
}

// observed is what the runtime has of the pod.
type observed struct {
	containers []criContainer // newest first
	ready      bool           // the kubelet still keeps the pod
}

func (o observed) running() *criContainer {
	for i := range o.containers {
		if o.containers[i].State == "CONTAINER_RUNNING" {
			return &o.containers[i]
		}
	}
	return nil
}

// ask runs crictl and reads its JSON into v.
func (x *staticPod) ask(ctx context.Context, v any, args ...string) error {
	out, err := x.shell.run(ctx, append(slices.Clone(x.crictl), args...)...)
	if err == nil {
		err = json.Unmarshal([]byte(out), v)
	}
	if err != nil {
		return fmt.Errorf("ask the container runtime: %w: does `%s %s` work there? write what does as host.crictl", err, strings.Join(x.crictl, " "), args[0])
	}
	return nil
}

// observe asks the runtime for the member's containers and its pod. The kubelet adds
// the node's name to that of a static pod.
func (x *staticPod) observe(ctx context.Context, m *podManifest) (observed, error) {
	mine := func(labels map[string]string) bool {
		name, space := labels["io.kubernetes.pod.name"], labels["io.kubernetes.pod.namespace"]
		return (name == m.pod || strings.HasPrefix(name, m.pod+"-")) && (m.namespace == "" || space == m.namespace)
	}
	var o observed
	var ps struct{ Containers []criContainer }
	if err := x.ask(ctx, &ps, "ps", "-a", "--label", "io.kubernetes.container.name="+m.container, "-o", "json"); err != nil {
		return o, err
	}
	var pods struct{ Items []criSandbox }
	if err := x.ask(ctx, &pods, "pods", "-o", "json"); err != nil {
		return o, err
	}
	for _, c := range ps.Containers {
		if mine(c.Labels) && c.Labels["io.kubernetes.container.name"] == m.container {
			o.containers = append(o.containers, c)
		}
	}
	slices.SortStableFunc(o.containers, func(a, b criContainer) int {
		at, _ := strconv.ParseInt(a.CreatedAt, 10, 64)
		bt, _ := strconv.ParseInt(b.CreatedAt, 10, 64)
		return int(min(1, max(-1, bt-at)))
	})
	for _, p := range pods.Items {
		o.ready = o.ready || (p.State == "SANDBOX_READY" && mine(p.Labels))
	}
	return o, nil
}

// image returns what a container runs, by the manifest's name for it if that is the
// same, and "" if the runtime knows it by its digest only.
func (x *staticPod) image(ctx context.Context, id, name string) (string, error) {
	var got struct {
		Status struct{ Image struct{ Image string } }
	}
	if err := x.ask(ctx, &got, "inspect", "-o", "json", id); err != nil {
		return "", err
	}
	image := got.Status.Image.Image
	if strings.HasPrefix(image, "sha256:") {
		return "", nil
	}
	if fullImage(image) == fullImage(name) {
		return name, nil
	}
	return image, nil
}

// fullImage writes an image's name with what the runtime adds to it.
func fullImage(name string) string {
	first, _, ok := strings.Cut(name, "/")
	switch {
	case !ok:
		name = "docker.io/library/" + name
	case !strings.ContainsAny(first, ".:") && first != "localhost":
		name = "docker.io/" + name
	}
	if !strings.Contains(name, "@") && !strings.Contains(path.Base(name), ":") {
		name += ":latest"
	}
	return name
}

// Inspect reads the manifest and asks the runtime.
func (x *staticPod) Inspect(ctx context.Context) (State, error) {
	f, err := x.read(ctx)
	if err != nil {
		return State{}, err
	}
	o, err := x.observe(ctx, f.podManifest)
	if err != nil {
		return State{}, err
	}
	st := State{Program: Program{Image: f.image}, Args: f.memberArgs(), Env: f.env, Detail: "its manifest is out of the kubelet's folder"}
	if f.in {
		st.Detail = "its manifest is in place, and no container runs"
	}
	if c := o.running(); c != nil {
		st.Running, st.ID = true, c.ID
		st.Detail = "container " + c.ID[:min(12, len(c.ID))]
		image, err := x.image(ctx, c.ID, f.image)
		if err != nil {
			return State{}, err
		}
		if image != "" {
			st.Program.Image = image
		}
	}
	if st.DataDir = f.hostPath(dataDir(st.Args, st.Env, "/")); st.DataDir != "" {
		st.Free = x.shell.freeBytes(ctx, st.DataDir)
	}
	return st, nil
}

// Stage pulls the image if the runtime does not have it, and asks it for its version.
func (x *staticPod) Stage(ctx context.Context, p Program) (string, error) {
	if p.Image == "" || p.Binary != "" {
		return "", fmt.Errorf("host of kind staticpod cannot run %q: name an image", p)
	}
	f, err := x.read(ctx)
	if err != nil {
		return "", err
	}
	if _, err := withImage(f.text, p.Image); err != nil {
		return "", err
	}
	if _, err := x.shell.run(ctx, append(slices.Clone(x.crictl), "inspecti", p.Image)...); err != nil {
		if _, err := x.shell.run(ctx, append(slices.Clone(x.crictl), "pull", p.Image)...); err != nil {
			return "", fmt.Errorf("pull the image: %w: load it into the runtime of that host, or mend its name", err)
		}
	}
	program := "etcd"
	if len(f.command) > 0 {
		program = f.command[0]
	}
	argv := slices.Clone(x.try)
	for i, a := range argv {
		argv[i] = strings.ReplaceAll(a, "{image}", p.Image)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 2*versionTimeout, fmt.Errorf("no answer within %v", 2*versionTimeout))
	defer cancel()
	out, err := x.shell.script(ctx, `exec "$@" 2>&1`, append(argv, program, "--version")...)
	if err != nil {
		return "", fmt.Errorf("ask %s for the version of its %s: %w: is it in the image? does `%s` work there?", p, program, err, x.try[0])
	}
	return printed(p, out)
}

// moveScript leaves $1 at $3 as a whole before it takes it away; $2 is the name for as
// long as it is half of one, with a dot in front.
const moveScript = `mkdir -p -- "$(dirname -- "$3")" && cp -p -- "$1" "$2" && { sync "$2" 2>/dev/null || sync; } && ` +
	`mv -f -- "$2" "$3" && { sync "$(dirname -- "$3")" 2>/dev/null || sync; } && rm -f -- "$1" && { sync "$(dirname -- "$1")" 2>/dev/null || sync; }`

func (x *staticPod) move(ctx context.Context, from, to string) error {
	if _, err := x.shell.script(ctx, moveScript, from, path.Join(path.Dir(to), "."+path.Base(to)+".theseus-upgrade"), to); err != nil {
		return fmt.Errorf("move %s to %s: %w: run as root, or set host.sudo", from, to, err)
	}
	return nil
}

// Stop moves the manifest out, and waits until the kubelet has ended the pod: by
// SIGTERM, and by SIGKILL after the pod's own terminationGracePeriodSeconds, over which
// an executor has no say.
func (x *staticPod) Stop(ctx context.Context) error {
	f, err := x.read(ctx)
	if err != nil {
		return err
	}
	if f.in {
		if err := x.move(ctx, x.manifest, x.side); err != nil {
			return err
		}
	}
	err = until(ctx, func() (bool, error) {
		o, err := x.observe(ctx, f.podManifest)
		return err == nil && o.running() == nil && !o.ready, err
	})
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("stop pod %s%s: %w: its manifest is out, at %s: look into journalctl -u kubelet, and run again", f.pod, x.shell.where(), ErrStillRunning, x.side)
	}
	return err
}

// keptManifests is the note beside the manifest that is out: earlier ones, by image.
type keptManifests struct {
	Version   int               `json:"version"`
	Manifests map[string]string `json:"manifests"`
}

func (x *staticPod) keptFile() string { return x.side + ".kept.json" }

func (x *staticPod) kept(ctx context.Context) (keptManifests, error) {
	k := keptManifests{Version: noteVersion, Manifests: map[string]string{}}
	raw, err := x.shell.readFile(ctx, x.keptFile())
	if errors.Is(err, os.ErrNotExist) {
		return k, nil
	}
	if err != nil {
		return k, err
	}
	if err := json.Unmarshal(raw, &k); err != nil || k.Version != noteVersion || k.Manifests == nil {
		return k, fmt.Errorf("read %s%s: it is not a note of version %d: remove the file, and run again", x.keptFile(), x.shell.where(), noteVersion)
	}
	return k, nil
}

// Swap edits the image of the manifest that is out, or puts back the manifest that had
// this image before.
func (x *staticPod) Swap(ctx context.Context, p Program) error {
	if p.Image == "" || p.Binary != "" {
		return fmt.Errorf("host of kind staticpod cannot run %q: name an image", p)
	}
	f, err := x.read(ctx)
	if err != nil || f.image == p.Image {
		return err
	}
	o, err := x.observe(ctx, f.podManifest)
	if err != nil {
		return err
	}
	if c := o.running(); c != nil {
		return fmt.Errorf("swap to %s: %w as container %s of pod %s: stop it first", p, ErrStillRunning, c.ID, f.pod)
	}
	// Between two restarts nothing runs, and the kubelet soon would start it again.
	if err := x.Stop(ctx); err != nil {
		return err
	}
	k, err := x.kept(ctx)
	if err != nil {
		return err
	}
	text := []byte(k.Manifests[p.Image])
	if len(text) == 0 {
		if text, err = withImage(f.text, p.Image); err != nil {
			return err
		}
	}
	if k.Manifests[f.image] != string(f.text) {
		k.Manifests[f.image] = string(f.text)
		raw, err := json.MarshalIndent(k, "", "  ")
		if err != nil {
			return err
		}
		if err := x.shell.writeFile(ctx, x.keptFile(), append(raw, '\n')); err != nil {
			return err
		}
	}
	return x.shell.writeFile(ctx, x.side, text)
}

// Start moves the manifest in, and waits until the kubelet runs a container of it: one
// that is there already with another image is of a manifest that was there before.
func (x *staticPod) Start(ctx context.Context) error {
	f, err := x.read(ctx)
	if err != nil {
		return err
	}
	before, err := x.observe(ctx, f.podManifest)
	if err != nil {
		return err
	}
	if !f.in {
		if err := x.move(ctx, x.side, x.manifest); err != nil {
			return err
		}
	}
	old := map[string]bool{}
	for _, c := range before.containers {
		old[c.ID] = true
	}
	err = until(ctx, func() (bool, error) {
		o, err := x.observe(ctx, f.podManifest)
		if err != nil {
			return false, err
		}
		if c := o.running(); c != nil {
			image, err := x.image(ctx, c.ID, f.image)
			return err == nil && (image == "" || image == f.image), err
		}
		for _, c := range o.containers {
			if c.State == "CONTAINER_EXITED" && !old[c.ID] {
				return false, fmt.Errorf("start pod %s: it ended at once%s: see %s logs %s", f.pod, x.lastWords(ctx, c.ID), strings.Join(x.crictl, " "), c.ID)
			}
		}
		return false, nil
	})
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("start pod %s%s: the kubelet does not run it yet: see journalctl -u kubelet for its image %s, and run again", f.pod, x.shell.where(), f.image)
	}
	return err
}

func (x *staticPod) lastWords(ctx context.Context, id string) string {
	lines, err := x.logs(ctx, id, 1)
	if err != nil || len(lines) == 0 {
		return ""
	}
	return ", its last line: " + clip(lines[0])
}

func (x *staticPod) logs(ctx context.Context, id string, lines int) ([]string, error) {
	out, err := x.shell.script(ctx, `exec "$@" 2>&1`, append(slices.Clone(x.crictl), "logs", "--tail", strconv.Itoa(lines), id)...)
	if err != nil {
		return nil, fmt.Errorf("read the log of container %s: %w", id, err)
	}
	return lastLines(out, lines), nil
}

// Logs asks the runtime for the newest container's output.
func (x *staticPod) Logs(ctx context.Context, lines int) ([]string, error) {
	f, err := x.read(ctx)
	if err != nil || lines <= 0 {
		return nil, err
	}
	o, err := x.observe(ctx, f.podManifest)
	if err != nil || len(o.containers) == 0 {
		return nil, err
	}
	return x.logs(ctx, o.containers[0].ID, lines)
}

// Finish forgets earlier manifests; the one in use stays where it is.
func (x *staticPod) Finish(ctx context.Context) error {
	return x.shell.removeFile(ctx, x.keptFile())
}

// Close ends the connection.
func (x *staticPod) Close() error { return x.shell.close() }
