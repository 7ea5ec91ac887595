package host

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestNew is about what an inventory may say of a host.
func TestNew(t *testing.T) {
	command := []string{"etcd"}
	for _, c := range []struct {
		spec Spec
		want string // "" means that it is good
	}{
		{Spec{}, `host.kind: "": write process, systemd, docker or staticpod`},
		{Spec{Kind: "podman"}, `host.kind: "podman": write process, systemd, docker or staticpod`},
		{Spec{Kind: "process", Command: command}, "host.pidFile: is missing: a host of kind process needs it"},
		{Spec{Kind: "process", PIDFile: "p"}, "host.command: is missing: a host of kind process needs it"},
		{Spec{Kind: "process", Command: command, PIDFile: "p", Env: []string{"A"}}, `host.env: "A": write NAME=value`},
		{Spec{Kind: "process", Command: command, PIDFile: "p", SSH: "h"}, "host.ssh: has no meaning for kind process: take it out, or change the kind to systemd or docker or staticpod"},
		{Spec{Kind: "process", Command: command, PIDFile: "p", Env: []string{"A=1"}, Dir: "d", Log: "l"}, ""},
		{Spec{Kind: "docker"}, "host.container: is missing: a host of kind docker needs it"},
		{Spec{Kind: "docker", Container: "c", SSHKey: "k"}, "host.sshKey: is of no use without host.ssh: write the host to log in to"},
		{Spec{Kind: "docker", Container: "c", Unit: "u"}, "host.unit: has no meaning for kind docker: take it out, or change the kind to systemd"},
		{Spec{Kind: "docker", Container: "c", SSH: "h", SSHKey: "k", Socket: "/s"}, ""},
	} {
		x, err := New(c.spec)
		if got := errorText(err); got != c.want {
			t.Errorf("%+v: %q, want %q", c.spec, got, c.want)
		}
		if err == nil {
			must(t, x.Close())
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestDataDir(t *testing.T) {
	for _, c := range []struct {
		args string
		env  map[string]string
		want string
	}{
		{"", nil, "/srv/default.etcd"},
		{"--name s1", nil, "/srv/s1.etcd"},
		{"-name=s1 --data-dir", nil, "/srv/s1.etcd"},
		{"--data-dir=/a --data-dir /b", nil, "/b"},
		{"-data-dir x", nil, "/srv/x"},
		{"", map[string]string{"ETCD_DATA_DIR": "/e"}, "/e"},
		{"--data-dir=/a", map[string]string{"ETCD_DATA_DIR": "/e"}, "/a"},
		{"", map[string]string{"ETCD_NAME": "n"}, "/srv/n.etcd"},
		{"--config-file=/etc/etcd.yaml --data-dir=/a", nil, ""},
		{"", map[string]string{"ETCD_CONFIG_FILE": "f"}, ""},
	} {
		if got := dataDir(strings.Fields(c.args), c.env, "/srv"); got != c.want {
			t.Errorf("%q with %v: %q, want %q", c.args, c.env, got, c.want)
		}
	}
}

func TestProgramWords(t *testing.T) {
	for argv, want := range map[string]string{
		"":                                        "",
		"/usr/local/bin/etcd --name x":            "/usr/local/bin/etcd",
		"/theseus serve --name x":                 "/theseus",
		"/etcd-3.5 --name x":                      "/etcd-3.5",
		"/tini -- etcd --name x":                  "/tini -- etcd",
		"/entrypoint.sh etcd --name etcd":         "/entrypoint.sh etcd",
		"/entrypoint.sh --name etcd":              "/entrypoint.sh",
		"/bin/sh -c exec etcd --name x":           "/bin/sh",
		"/my/server --data-dir /etcd --name etcd": "/my/server",
	} {
		if got := strings.Join(programWords(strings.Fields(argv)), " "); got != want {
			t.Errorf("%q: %q, want %q", argv, got, want)
		}
	}
}

func TestParseStat(t *testing.T) {
	const tail = " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21"
	type got struct {
		Pid       int
		Start     uint64
		Ended, OK bool
	}
	for line, want := range map[string]got{
		"12 (etcd) S" + tail:     {12, 4711, false, true},
		"12 (a) Z (b)) R" + tail: {12, 4711, false, true},
		"12 (etcd) Z" + tail:     {12, 4711, true, true},
		"12 (etcd) S 1 2":        {},
		"12 etcd S" + tail:       {},
		"x (etcd) S" + tail:      {0, 4711, false, false},
		"":                       {},
	} {
		var g got
		g.Pid, g.Start, g.Ended, g.OK = parseStat(line)
		if !g.OK {
			want.Pid, want.Start, g.Pid, g.Start = 0, 0, 0, 0
		}
		if diff := cmp.Diff(want, g); diff != "" {
			t.Errorf("%q (-want +got):\n%s", line, diff)
		}
	}
}

func TestPrinted(t *testing.T) {
	p := Program{Binary: "/b"}
	for out, want := range map[string]string{
		"etcd Version: 3.4.0\nGit SHA: x\n":               "etcd Version: 3.4.0\nGit SHA: x",
		"theseus Version: 0.1.0\r\netcd Version: 3.7.3\n": "theseus Version: 0.1.0\netcd Version: 3.7.3",
		"{\"level\":\"info\"}\netcd version: 3.9.0":       "{\"level\":\"info\"}\netcd version: 3.9.0",
	} {
		if got, err := printed(p, out); err != nil || got != want {
			t.Errorf("%q: %q, %v", out, got, err)
		}
	}
	if _, err := printed(p, "curl 7\n"); err == nil || !strings.Contains(err.Error(), `it printed "curl 7"`) {
		t.Errorf("another program: %v", err)
	}
}
