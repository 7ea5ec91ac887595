package host

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const podHead = "apiVersion: v1\nkind: Pod\nmetadata: {name: etcd}\nspec:\n  containers:\n"

func TestWithImage(t *testing.T) {
	for _, c := range []struct{ name, from, to, want string }{
		{"plain", podHead + "  - name: etcd\n    image: a/etcd:1\n    command: [etcd]\n", "b/x:2", podHead + "  - name: etcd\n    image: b/x:2\n    command: [etcd]\n"},
		{"quotes, blanks and a comment", podHead + "  - image:   'a/etcd:1'   # a/etcd:1\n    name: etcd", "b/x:2", podHead + "  - image:   'b/x:2'   # a/etcd:1\n    name: etcd"},
		{"on one line", podHead + "  - {name: etcd, image: \"a/etcd:1\", env: [{name: I, value: a/etcd:1}]}\n", "b/x:2", podHead + "  - {name: etcd, image: \"b/x:2\", env: [{name: I, value: a/etcd:1}]}\n"},
		{"another container before it", podHead + "  - name: sidecar\n    image: a/etcd:1\n  - name: etcd\n    image: a/etcd:1\n", "b/x:2", podHead + "  - name: sidecar\n    image: a/etcd:1\n  - name: etcd\n    image: b/x:2\n"},
		{"an init container", strings.Replace(podHead, "spec:\n", "spec:\n  initContainers:\n  - {name: etcd, image: a/etcd:1}\n", 1) + "  - name: etcd\n    image: a/etcd:1\n", "b/x:2",
			strings.Replace(podHead, "spec:\n", "spec:\n  initContainers:\n  - {name: etcd, image: a/etcd:1}\n", 1) + "  - name: etcd\n    image: b/x:2\n"},
		{"carriage returns", strings.ReplaceAll(podHead+"  - name: etcd\n    image: a/etcd:1\n", "\n", "\r\n"), "b/x:2", strings.ReplaceAll(podHead+"  - name: etcd\n    image: b/x:2\n", "\n", "\r\n")},
		{"letters of several bytes", podHead + "  - {name: etcd, ünï: «é», image: a/etcd:1}\n", "b/x:2", podHead + "  - {name: etcd, ünï: «é», image: b/x:2}\n"},
		{"JSON", `{"kind": "Pod", "metadata": {"name": "etcd"}, "spec": {"containers": [{"name": "etcd", "image": "a/etcd:1"}]}}`, "b/x@sha256:00ff",
			`{"kind": "Pod", "metadata": {"name": "etcd"}, "spec": {"containers": [{"name": "etcd", "image": "b/x@sha256:00ff"}]}}`},
		{"on a line of its own", podHead + "  - name: etcd\n    image:\n      a/etcd:1\n", "b/x:2", podHead + "  - name: etcd\n    image:\n      b/x:2\n"},
		{"a tag", podHead + "  - name: etcd\n    image: !!str a/etcd:1\n", "b/x:2", ""},
		{"folded", podHead + "  - name: etcd\n    image: >-\n      a/etcd:1\n", "b/x:2", ""},
		{"an alias", podHead + "  - name: etcd\n    image: *i\n", "b/x:2", ""},
		{"an anchor", podHead + "  - name: etcd\n    image: &i a/etcd:1\n", "b/x:2", ""},
		{"escapes", podHead + "  - name: etcd\n    image: \"a/\\x65tcd:1\"\n", "b/x:2", ""},
		{"no image", podHead + "  - name: etcd\n", "b/x:2", ""},
		{"two containers, no etcd", podHead + "  - {name: a, image: a}\n  - {name: b, image: b}\n", "b/x:2", ""},
		{"not a pod", strings.Replace(podHead, "Pod", "Deployment", 1) + "  - {name: etcd, image: a}\n", "b/x:2", ""},
		{"an image that is none", podHead + "  - name: etcd\n    image: a/etcd:1\n", "b x", ""},
		{"an image with a comment", podHead + "  - name: etcd\n    image: a/etcd:1\n", "b/x:2#", ""},
		{"nothing", "", "b/x:2", ""},
		{"a list", "- a\n", "b/x:2", ""},
	} {
		got, err := withImage([]byte(c.from), c.to)
		if diff := cmp.Diff(c.want, string(got)); diff != "" || (err == nil) != (c.want != "") {
			t.Errorf("%s: %v %s", c.name, err, diff)
		}
		if err != nil || c.name == "" {
			continue
		}
		was, err := parseManifest([]byte(c.from))
		must(t, err)
		if back, err := withImage(got, was.image); err != nil || string(back) != c.from {
			t.Errorf("%s: the way back: %v\n%s", c.name, err, back)
		}
	}
}

func TestManifestMounts(t *testing.T) {
	m, err := parseManifest([]byte(podHead + `  - name: etcd
    image: a
    command: [etcd, --name=a]
    args: [--data-dir=/var/lib/etcd/data]
    volumeMounts:
    - {name: d, mountPath: /var/lib/etcd}
    - {name: v, mountPath: /var}
    - {name: e, mountPath: /tmp}
  volumes:
  - {name: d, hostPath: {path: /data/etcd}}
  - {name: v, hostPath: {path: /host/var}}
  - {name: e, emptyDir: {}}
`))
	must(t, err)
	for in, want := range map[string]string{"/var/lib/etcd": "/data/etcd", "/var/lib/etcd/data": "/data/etcd/data", "/var/lib/etcd2": "/host/var/lib/etcd2", "/tmp/x": "", "": ""} {
		if got := m.hostPath(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	if diff := cmp.Diff([]string{"--name=a", "--data-dir=/var/lib/etcd/data"}, m.memberArgs()); diff != "" {
		t.Error(diff)
	}
}

func TestFullImage(t *testing.T) {
	for in, want := range map[string]string{
		"etcd": "docker.io/library/etcd:latest", "a/etcd:1": "docker.io/a/etcd:1", "r.example/etcd": "r.example/etcd:latest",
		"localhost/etcd:1": "localhost/etcd:1", "r:5000/etcd": "r:5000/etcd:latest", "a/etcd@sha256:0": "docker.io/a/etcd@sha256:0",
	} {
		if got := fullImage(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// FuzzWithImage checks that an edit changes the image and can be taken back.
func FuzzWithImage(f *testing.F) {
	f.Add(podText)
	f.Add(podHead + "  - {name: etcd, image: a}\n")
	f.Add("---\n" + podHead + "  - name: etcd\n    image: \"a\" # c\n---\n")
	f.Fuzz(func(t *testing.T, text string) {
		was, err := parseManifest([]byte(text))
		if err != nil {
			return
		}
		got, err := withImage([]byte(text), "b/x:2")
		if err != nil {
			return
		}
		is, err := parseManifest(got)
		if err != nil || is.image != "b/x:2" {
			t.Fatalf("%q: %v", got, err)
		}
		if back, err := withImage(got, was.image); err == nil && string(back) != text {
			t.Fatalf("%q is not %q", back, text)
		}
	})
}

func TestNewRefusals(t *testing.T) {
	for _, c := range []struct {
		spec Spec
		want string
	}{
		{Spec{Kind: "systemd"}, "host.unit"},
		{Spec{Kind: "systemd", Unit: "a b"}, "one service"},
		{Spec{Kind: "systemd", Unit: "--all"}, "one service"},
		{Spec{Kind: "systemd", Unit: "../x"}, "one service"},
		{Spec{Kind: "systemd", Unit: "etcd", Manifest: "/x"}, "host.manifest"},
		{Spec{Kind: "staticpod"}, "host.manifest"},
		{Spec{Kind: "staticpod", Manifest: "etcd.yaml"}, "absolute"},
		{Spec{Kind: "staticpod", Manifest: "/etcd.yaml"}, "absolute"},
		{Spec{Kind: "staticpod", Manifest: "/m/etcd.yaml", TryImage: []string{"x"}}, "{image}"},
		{Spec{Kind: "process", Command: []string{"/x"}, PIDFile: "/x.pid", Sudo: true}, "host.sudo"},
	} {
		if _, err := New(c.spec); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %s", c.spec, err, c.want)
		}
	}
}
