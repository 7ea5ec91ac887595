package upgrade

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"theseus/upgrade/host"
)

// engine is the container engine of this machine, with what a test makes in it, all
// under one name that nothing else has.
type engine struct {
	t    *testing.T
	name string
}

func newEngine(t *testing.T) *engine {
	t.Helper()
	if text, err := exec.Command("docker", "version", "--format", "{{.Server.Version}}").CombinedOutput(); err != nil {
		t.Skipf("no container engine runs on this machine: %v: %s", err, bytes.TrimSpace(text))
	}
	e := &engine{t: t, name: fmt.Sprintf("theseus-e2e-%d-%d", os.Getpid(), time.Now().UnixNano())}
	t.Cleanup(e.close)
	return e
}

// docker runs the engine's own command.
func (e *engine) docker(args ...string) string {
	e.t.Helper()
	text, err := exec.Command("docker", args...).CombinedOutput()
	if err != nil {
		e.t.Errorf("docker %s: %v\n%s", strings.Join(args, " "), err, text)
	}
	return strings.TrimSpace(string(text))
}

// close removes every container and image of the test, and sees that none is left.
func (e *engine) close() {
	for _, name := range e.containers("") {
		if e.t.Failed() {
			e.t.Logf("--- log of %s\n%s", name, e.docker("logs", "--tail", "25", name))
		}
		e.docker("rm", "--force", "--volumes", name)
	}
	if tags := strings.Fields(e.docker("images", "--format", "{{.Repository}}:{{.Tag}}", e.name)); len(tags) > 0 {
		e.docker(append([]string{"rmi", "--force"}, tags...)...)
	}
	if left := e.docker("ps", "--all", "--quiet", "--filter", "name="+e.name) + e.docker("images", "--quiet", e.name); left != "" {
		e.t.Errorf("the test has left %s in the engine", left)
	}
}

// containers are the names of those of a member, or of all.
func (e *engine) containers(member string) []string {
	e.t.Helper()
	return strings.Fields(e.docker("ps", "--all", "--format", "{{.Names}}", "--filter", "name=^/"+e.name+member))
}

// image makes an image from scratch of one program with the libraries that it wants.
func (e *engine) image(tag, program, at string, changes ...string) string {
	e.t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(file, at string) {
		raw, err := os.ReadFile(file)
		if err == nil {
			err = w.WriteHeader(&tar.Header{Name: strings.TrimPrefix(at, "/"), Mode: 0o755, Size: int64(len(raw))})
		}
		if err == nil {
			_, err = w.Write(raw)
		}
		if err != nil {
			e.t.Fatal(err)
		}
	}
	if err := w.WriteHeader(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}); err != nil {
		e.t.Fatal(err)
	}
	add(program, at)
	libraries, _ := exec.Command("ldd", program).Output() // a static program has none, and ldd says so by its status
	for _, lib := range regexp.MustCompile(`/\S+`).FindAllString(string(libraries), -1) {
		add(lib, lib)
	}
	if err := w.Close(); err != nil {
		e.t.Fatal(err)
	}
	args := []string{"import"}
	for _, c := range changes {
		args = append(args, "--change", c)
	}
	ref := e.name + ":" + tag
	cmd := exec.Command("docker", append(args, "-", ref)...)
	cmd.Stdin = &b
	if text, err := cmd.CombinedOutput(); err != nil {
		e.t.Fatalf("docker import: %v\n%s", err, text)
	}
	return ref
}

// container makes the i-th member one of the image, as its documentation has it: on the
// host's network, with the data on a folder of the host, restarted by the engine. program
// is how the command names etcd; empty leaves it to the image.
func (e *engine) container(l *live, i int, image, program string) {
	e.t.Helper()
	l.member(i, func(dir string) host.Spec {
		name := fmt.Sprintf("%s-m%d", e.name, i)
		args := []string{"create", "--name", name, "--network", "host", "--restart", "unless-stopped",
			"--volume", filepath.Join(dir, "data") + ":/etcd-data", "--env", "ETCD_LOG_LEVEL=info", "--label", "team=store", image}
		if program != "" {
			args = append(args, program)
		}
		e.docker(append(args, l.flags(i, "/etcd-data/"+filepath.Base(dir))...)...)
		return host.Spec{Kind: "docker", Container: name}
	})
}
