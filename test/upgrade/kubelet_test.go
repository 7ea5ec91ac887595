package upgrade

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"theseus/upgrade/host"
)

// kubelet stands in for one: it watches a folder for the manifest of a member, runs its
// command as a process with the program that stands for the image, starts it again when
// it ends, and writes down what crictl would answer.
type kubelet struct {
	t      *testing.T
	dir    string            // manifests/, logs/, inspect/, ps.json, pods.json
	images map[string]string // image to the program that it is

	text    string // of the manifest that is obeyed
	pod     pod
	cmd     *exec.Cmd
	ended   chan struct{}
	records []map[string]any // containers, the last is the newest
}

// pod is what the stand-in reads of a manifest.
type pod struct {
	Metadata struct{ Name, Namespace string }
	Spec     struct {
		Containers []struct {
			Name, Image string
			Command     []string
		}
	}
}

// crictl answers from the stand-in's files; $S is its folder. "try" stands for ctr.
const crictl = `#!/bin/sh
case $1 in
ps) cat "$S/ps.json" ;;
pods) cat "$S/pods.json" ;;
inspect) cat "$S/inspect/$4" ;;
logs) tail -n "$3" "$S/logs/$4" ;;
inspecti) [ -e "$S/images/$2" ] || { echo "no such image" >&2; exit 1; } ;;
try) p="$S/images/$2"; shift 3; exec "$p" "$@" ;;
*) exit 9 ;;
esac
`

// staticPod makes the i-th member a static pod of a stand-in kubelet.
func (l *live) staticPod(i int, image string, images map[string]string) {
	l.t.Helper()
	l.member(i, func(dir string) host.Spec {
		k := &kubelet{t: l.t, dir: filepath.Join(dir, "kubelet"), images: images}
		for _, d := range []string{"manifests", "logs", "inspect", "images"} {
			k.must(os.MkdirAll(filepath.Join(k.dir, d), 0o755))
		}
		for name, program := range images {
			k.must(os.Symlink(program, filepath.Join(k.dir, "images", name)))
		}
		script := filepath.Join(k.dir, "crictl")
		k.must(os.WriteFile(script, []byte(crictl), 0o755))
		data := filepath.Join(dir, "data")
		text, err := yaml.Marshal(map[string]any{"apiVersion": "v1", "kind": "Pod",
			"metadata": map[string]any{"name": "etcd", "namespace": "kube-system"},
			"spec": map[string]any{
				"containers": []any{map[string]any{"name": "etcd", "image": image, "command": append([]string{"etcd"}, l.flags(i, data)...),
					"volumeMounts": []any{map[string]any{"name": "data", "mountPath": data}}}},
				"volumes": []any{map[string]any{"name": "data", "hostPath": map[string]any{"path": data}}}}})
		k.must(err)
		manifest := filepath.Join(k.dir, "manifests", "etcd.yaml")
		k.must(os.WriteFile(manifest, text, 0o600))
		k.write()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); k.run(ctx, manifest) }()
		l.t.Cleanup(func() { cancel(); <-done })
		tool := []string{"env", "S=" + k.dir, script}
		return host.Spec{Kind: "staticpod", Manifest: manifest, Crictl: tool, TryImage: append(tool[:3:3], "try", "{image}")}
	})
}

func (k *kubelet) must(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

// run obeys the manifest until ctx ends, and ends the container then.
func (k *kubelet) run(ctx context.Context, manifest string) {
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	for {
		raw, _ := os.ReadFile(manifest) // none: no pod
		if string(raw) != k.text {
			k.end()
			k.text, k.pod = string(raw), pod{}
			if err := yaml.Unmarshal(raw, &k.pod); err != nil {
				k.t.Errorf("the kubelet was given half a manifest: %v\n%s", err, raw)
			}
			k.write()
		}
		select {
		case <-k.ended: // nil when nothing runs
			k.end()
		default:
		}
		if k.text != "" && k.cmd == nil {
			k.start()
		}
		select {
		case <-ctx.Done():
			k.end()
			return
		case <-tick.C:
		}
	}
}

// start runs the container of the pod.
func (k *kubelet) start() {
	c := k.pod.Spec.Containers[0]
	id := fmt.Sprintf("%064d", len(k.records)+1)
	log, err := os.Create(filepath.Join(k.dir, "logs", id))
	if err != nil {
		k.t.Error(err)
		return
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(k.images[c.Image], c.Command[1:]...)
	cmd.Args[0], cmd.Stdout, cmd.Stderr = c.Command[0], log, log
	if err := cmd.Start(); err != nil {
		k.t.Errorf("start a container of %q: %v", c.Image, err)
		return
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	k.cmd, k.ended = cmd, ended
	k.records = append(k.records, map[string]any{"id": id, "state": "CONTAINER_RUNNING",
		"createdAt": strconv.FormatInt(time.Now().UnixNano(), 10), "labels": k.labels()})
	k.file("inspect/"+id, map[string]any{"status": map[string]any{"image": map[string]any{"image": c.Image}}})
	k.write()
}

// end ends the container by SIGTERM, as long as that takes.
func (k *kubelet) end() {
	if k.cmd == nil {
		return
	}
	_ = k.cmd.Process.Signal(syscall.SIGTERM)
	<-k.ended
	k.cmd, k.ended = nil, nil
	k.records[len(k.records)-1]["state"] = "CONTAINER_EXITED"
	k.write()
}

// labels are those that a kubelet gives to what it runs; the node's name is behind the
// pod's own.
func (k *kubelet) labels() map[string]string {
	return map[string]string{"io.kubernetes.pod.name": k.pod.Metadata.Name + "-node1", "io.kubernetes.pod.namespace": k.pod.Metadata.Namespace,
		"io.kubernetes.container.name": k.pod.Spec.Containers[0].Name}
}

// write writes what crictl prints.
func (k *kubelet) write() {
	pods := []any{}
	if k.text != "" {
		pods = append(pods, map[string]any{"id": "pod", "state": "SANDBOX_READY", "labels": k.labels()})
	}
	k.file("ps.json", map[string]any{"containers": k.records})
	k.file("pods.json", map[string]any{"items": pods})
}

// file writes one answer as a whole.
func (k *kubelet) file(name string, v any) {
	raw, err := json.Marshal(v)
	path := filepath.Join(k.dir, name)
	if err == nil {
		err = os.WriteFile(path+".new", raw, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		k.t.Error(err)
	}
}
