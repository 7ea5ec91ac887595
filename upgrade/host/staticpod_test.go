package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"testing"
	"time"

	"golang.org/x/sys/unix"

	"theseus/test/cluster"
)

// kubelet is a stand-in: it watches a folder of manifests, runs the command of the
// member's container as a process, with the program from the folder that stands for
// the image, starts it again when it ends, and writes what crictl would answer.
type kubelet struct {
	manifests string
	state     string            // containers.json, pods.json, inspect/ID, logs/ID
	images    map[string]string // image to the program that it is
	slow      time.Duration     // how late it sees a change

	text    string
	cmd     *exec.Cmd
	ended   chan struct{}
	starts  int
	records []criContainer
}

const (
	runningState = "CONTAINER_RUNNING"
	endedState   = "CONTAINER_EXITED"
)

// run is the kubelet's loop.
func (k *kubelet) run(ctx context.Context) {
	defer k.end()
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	var seen string
	var since time.Time
	for {
		text := k.read()
		if text != seen {
			seen, since = text, time.Now()
		}
		if text != k.text && time.Since(since) >= k.slow {
			k.end()
			k.text = text
			k.write()
		}
		if k.text != "" && k.cmd == nil {
			k.start()
		}
		if k.cmd != nil {
			select {
			case <-k.ended:
				k.end()
			default:
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// read reads the folder as the kubelet does: names with a dot in front are passed over.
func (k *kubelet) read() string {
	entries, err := os.ReadDir(k.manifests)
	if err != nil {
		return ""
	}
	var all strings.Builder
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || e.IsDir() {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(k.manifests, e.Name()))
		if err != nil {
			return ""
		}
		all.Write(raw)
	}
	return all.String()
}

func (k *kubelet) start() {
	m, err := parseManifest([]byte(k.text))
	if err != nil {
		return
	}
	program, ok := k.images[m.image]
	if !ok {
		k.write() // it cannot pull the image: a pod and no container
		return
	}
	k.starts++
	id := fmt.Sprintf("%064d", k.starts)
	log, err := os.Create(filepath.Join(k.state, "logs", id))
	if err != nil {
		return
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(program, m.memberArgs()...)
	cmd.Args[0] = m.command[0]
	cmd.Stdout, cmd.Stderr = log, log
	if cmd.Start() != nil {
		return
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	k.cmd, k.ended = cmd, ended
	k.records = append(k.records, criContainer{ID: id, State: runningState, CreatedAt: strconv.FormatInt(time.Now().UnixNano(), 10), Labels: labels(m)})
	_ = os.WriteFile(filepath.Join(k.state, "inspect", id), []byte(`{"status":{"image":{"image":"`+m.image+`"}}}`), 0o600)
	k.write()
}

func labels(m *podManifest) map[string]string {
	return map[string]string{"io.kubernetes.pod.name": m.pod + "-node1", "io.kubernetes.pod.namespace": m.namespace, "io.kubernetes.container.name": m.container}
}

// end ends the container by SIGTERM and never otherwise.
func (k *kubelet) end() {
	if k.cmd != nil {
		_ = k.cmd.Process.Signal(unix.SIGTERM)
		<-k.ended
		k.cmd = nil
		k.records[len(k.records)-1].State = endedState
	}
	k.write()
}

// write writes what the fake crictl prints.
func (k *kubelet) write() {
	pods := []criSandbox{}
	// The pod is there until the kubelet has seen that its manifest is not, and until then
	// a container that crashes is started again.
	if m, err := parseManifest([]byte(k.text)); err == nil {
		pods = append(pods, criSandbox{ID: "pod", State: "SANDBOX_READY", Labels: labels(m)})
	}
	for name, v := range map[string]any{"containers.json": map[string]any{"containers": k.records}, "pods.json": map[string]any{"items": pods}} {
		raw, err := json.Marshal(v)
		if err == nil {
			_ = writeAtomically(filepath.Join(k.state, name), raw)
		}
	}
}

// fakeCrictl answers from the stand-in's files; $S is its folder.
const fakeCrictl = `#!/bin/sh
case $1 in
ps) cat "$S/containers.json" ;;
pods) cat "$S/pods.json" ;;
inspect) cat "$S/inspect/$4" ;;
logs) tail -n "$3" "$S/logs/$4" ;;
inspecti) [ -e "$S/images/$(echo "$2" | tr /: __)" ] || { echo "no such image" >&2; exit 1; } ;;
pull) echo "pull $2: not found" >&2; exit 1 ;;
try) p=$(cat "$S/images/$(echo "$2" | tr /: __)"); shift 3; exec "$p" "$@" ;;
*) exit 9 ;;
esac
`

// podText is a manifest as kubeadm writes it, with what an edit could spoil.
const podText = `# kept as it is
apiVersion: v1
kind: Pod
metadata:
  annotations: {kubeadm.kubernetes.io/etcd.advertise-client-urls: "CLIENT"}
  name: etcd
  namespace: kube-system
spec:
  containers:
  - name: etcd
    command:
    - etcd
    - --name=one
    - --data-dir=DATA
    - --listen-client-urls=CLIENT
    - --advertise-client-urls=CLIENT
    - --listen-peer-urls=PEER
    - --initial-advertise-peer-urls=PEER
    - --initial-cluster=one=PEER
    image:   "registry.example/etcd:3.4"   # image: registry.example/etcd:3.4
    env: [{name: GREETING, value: hello}]
    volumeMounts:
    - {mountPath: DATA, name: data}
  volumes:
  - {hostPath: {path: DATA, type: DirectoryOrCreate}, name: data}
`

func TestStaticPod(t *testing.T) {
	t.Run("here", func(t *testing.T) { tryStaticPod(t, Spec{}) })
	t.Run("ssh", func(t *testing.T) {
		if os.Getenv("THESEUS_FULL") != "1" {
			t.Skip("the same over ssh runs with THESEUS_FULL=1")
		}
		s := startSSHD(t)
		tryStaticPod(t, Spec{SSH: s.target, SSHKey: filepath.Join(s.dir, "id")})
	})
}

func tryStaticPod(t *testing.T, spec Spec) {
	t.Helper()
	dir := t.TempDir()
	// In its image Theseus goes by the name that the manifest's command has.
	etcd, ours := cluster.Peer(t, "3.4", "etcd"), filepath.Join(dir, "etcd")
	must(t, os.Symlink(cluster.Theseus(t).Path, ours))
	k := &kubelet{manifests: filepath.Join(dir, "manifests"), state: filepath.Join(dir, "state"), slow: 200 * time.Millisecond,
		images: map[string]string{"registry.example/etcd:3.4": etcd, "registry.example/theseus:1": ours, "crash:1": filepath.Join(dir, "crash")}}
	for _, d := range []string{"manifests", "state/logs", "state/inspect", "state/images"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for image, program := range k.images {
		must(t, os.WriteFile(filepath.Join(k.state, "images", strings.NewReplacer("/", "_", ":", "_").Replace(image)), []byte(program), 0o600))
	}
	crictl := filepath.Join(dir, "crictl")
	must(t, os.WriteFile(crictl, []byte(fakeCrictl), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "crash"), []byte(crashing), 0o755))
	client := freeURL(t)
	text := strings.NewReplacer("CLIENT", client, "PEER", freeURL(t), "DATA", filepath.Join(dir, "data")).Replace(podText)
	manifest := filepath.Join(k.manifests, "etcd.yaml")
	must(t, os.WriteFile(manifest, []byte(text), 0o600))

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); k.run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })

	tool := []string{"env", "S=" + k.state, crictl}
	spec.Kind, spec.Manifest, spec.Crictl, spec.TryImage = "staticpod", manifest, tool, append(tool[:3:3], "try", "{image}")
	movePod(t, open(t, spec), client, text, manifest)
}

// movePod moves a real etcd away and back, and then to Theseus.
func movePod(t *testing.T, x Executor, client, text, manifest string) {
	t.Helper()
	etcd, ours, crash := Program{Image: "registry.example/etcd:3.4"}, Program{Image: "registry.example/theseus:1"}, Program{Image: "crash:1"}
	data := filepath.Join(filepath.Dir(filepath.Dir(manifest)), "data")
	waitFor(t, "the first start", func() bool { st, err := x.Inspect(t.Context()); return err == nil && st.Running })
	putNth(t, client, 0)
	st := inspect(t, x)
	if st.Program != etcd || st.DataDir != data || st.Free == 0 || st.Env["GREETING"] != "hello" || st.Args[0] != "--name=one" {
		t.Fatalf("inspect: %+v", st)
	}
	version, err := x.Stage(t.Context(), ours)
	if err != nil || !strings.HasPrefix(version, "etcd Version:") {
		t.Fatalf("stage: %q, %v", version, err)
	}
	if _, err := x.Stage(t.Context(), Program{Image: "none:1"}); err == nil || !strings.Contains(err.Error(), "load it into") {
		t.Fatalf("stage of no image: %v", err)
	}
	if err := x.Swap(t.Context(), ours); !errors.Is(err, ErrStillRunning) {
		t.Fatalf("swap of a running member: %v", err)
	}
	do(t, "stop", x.Stop)
	do(t, "stop again", x.Stop)
	if st := inspect(t, x); st.Running || st.Program != etcd {
		t.Fatalf("inspect of a stopped member: %+v", st)
	}
	do(t, "swap to one that crashes", func(ctx context.Context) error { return x.Swap(ctx, crash) })
	if err := x.Start(t.Context()); err != nil && !strings.Contains(err.Error(), "ended at once") {
		t.Fatal(err)
	}
	waitFor(t, "its last words", func() bool {
		lines, err := x.Logs(t.Context(), 5)
		return err == nil && strings.Contains(strings.Join(lines, "\n"), "no member today")
	})
	do(t, "stop it", x.Stop)
	do(t, "swap back", func(ctx context.Context) error { return x.Swap(ctx, etcd) })
	do(t, "start", x.Start)
	do(t, "start again", x.Start)
	if again := inspect(t, x); !again.Running || again.Program != etcd || again.ID == st.ID {
		t.Fatalf("inspect after the way back: %+v", again)
	}
	if raw, err := os.ReadFile(manifest); err != nil || string(raw) != text {
		t.Fatalf("the manifest after the way back: %v\n%s", err, raw)
	}
	putNth(t, client, 1)
	do(t, "stop", x.Stop)
	for range 2 {
		do(t, "swap", func(ctx context.Context) error { return x.Swap(ctx, ours) })
	}
	do(t, "start", x.Start)
	putNth(t, client, 2)
	do(t, "finish", x.Finish)
	want := strings.Replace(text, `"registry.example/etcd:3.4"`, `"registry.example/theseus:1"`, 1)
	raw, err := os.ReadFile(manifest)
	if err != nil || string(raw) != want {
		t.Fatalf("the manifest after the swap: %v\n%s", err, raw)
	}
	if info, err := os.Stat(manifest); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the manifest's mode: %v, %v", info.Mode(), err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(manifest)), "theseus-upgrade", "*"))
	if err != nil || len(left) != 0 {
		t.Fatalf("after the end of the run there is: %v, %v", left, err)
	}
	do(t, "stop", x.Stop)
}
