package host

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/network"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

func ipam(t *testing.T, subnet string) *network.IPAM {
	t.Helper()
	p, err := netip.ParsePrefix(subnet)
	must(t, err)
	return &network.IPAM{Config: []network.IPAMConfig{{Subnet: p}}}
}

func endpointAt(t *testing.T, name, ip string) *network.NetworkingConfig {
	t.Helper()
	a, err := netip.ParseAddr(ip)
	must(t, err)
	return &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{name: {
		IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: a}, Aliases: []string{"etcd-x"}}}}
}

// compareCarried compares two containers of which only the image may differ.
func compareCarried(t *testing.T, before, after container.InspectResponse, changed map[string]string) {
	t.Helper()
	want, got := *before.Config, *after.Config
	want.Image = changed["Image"]
	want.Env = []string{"MINE=1", "IMAGE=b"}
	want.Labels = map[string]string{"mine": "1", "image": "b", ofLabel: changed[ofLabel]}
	want.ExposedPorts, got.ExposedPorts = nil, nil
	want.Volumes, got.Volumes = nil, nil // carried as a mount
	byOrder := cmp.Transformer("sorted", func(env []string) map[string]int {
		m := map[string]int{}
		for _, e := range env {
			m[e]++
		}
		return m
	})
	delete(got.Labels, "")
	want.Env, got.Env = without(want.Env, got.Env), nil
	if len(want.Env) > 0 {
		t.Errorf("environment lacks %v", want.Env)
	}
	want.Env = nil
	if diff := cmp.Diff(want, got, byOrder); diff != "" {
		t.Errorf("Config (-want +got):\n%s", diff)
	}
	wantHost, gotHost := *before.HostConfig, *after.HostConfig
	if len(gotHost.Mounts) != len(wantHost.Mounts)+1 || gotHost.Mounts[len(gotHost.Mounts)-1].Source != volumeAt(before, "/extra") {
		t.Errorf("the anonymous volume was not carried over: %+v", gotHost.Mounts)
	} else {
		gotHost.Mounts = gotHost.Mounts[:len(wantHost.Mounts)]
	}
	if diff := cmp.Diff(wantHost, gotHost, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("HostConfig (-want +got):\n%s", diff)
	}
	a, _ := endpoints(before)
	b, _ := endpoints(after)
	if diff := cmp.Diff(a, b, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("network (-want +got):\n%s", diff)
	}
}

func volumeAt(c container.InspectResponse, at string) string {
	for _, m := range c.Mounts {
		if m.Destination == at {
			return m.Name
		}
	}
	return "none"
}

// TestCommand is about which command line a container gets from another image.
func TestCommand(t *testing.T) {
	type line struct{ Entrypoint, Cmd []string }
	for _, c := range []struct {
		name          string
		old, from, to line
		words         []string
		want          line
	}{
		{"args only", line{[]string{"/etcd"}, []string{"--name", "x"}}, line{Entrypoint: []string{"/etcd"}}, line{Entrypoint: []string{"/usr/bin/etcd"}}, nil,
			line{[]string{"/usr/bin/etcd"}, []string{"--name", "x"}}},
		{"args only, to ours", line{[]string{"/etcd"}, []string{"--name", "x"}}, line{Entrypoint: []string{"/etcd"}}, line{Entrypoint: []string{"/theseus"}}, []string{"serve"},
			line{[]string{"/theseus"}, []string{"serve", "--name", "x"}}},
		{"args only, back from ours", line{[]string{"/theseus"}, []string{"serve", "--name", "x"}}, line{Entrypoint: []string{"/theseus"}}, line{Entrypoint: []string{"/etcd"}}, nil,
			line{[]string{"/etcd"}, []string{"--name", "x"}}},
		{"program in the command", line{nil, []string{"/usr/local/bin/etcd", "--name", "x"}}, line{Cmd: []string{"/usr/local/bin/etcd"}}, line{Cmd: []string{"/usr/local/bin/etcd"}}, nil,
			line{nil, []string{"/usr/local/bin/etcd", "--name", "x"}}},
		{"program in the command, to an entrypoint", line{nil, []string{"etcd", "--name", "x"}}, line{}, line{Entrypoint: []string{"/theseus"}}, nil,
			line{[]string{""}, []string{"etcd", "--name", "x"}}},
		{"the operator's own entrypoint", line{[]string{"/my/etcd"}, []string{"--name", "x"}}, line{Entrypoint: []string{"/etcd"}}, line{Entrypoint: []string{"/theseus"}}, nil,
			line{[]string{"/my/etcd"}, []string{"--name", "x"}}},
		{"an init before it", line{[]string{"/tini", "--"}, []string{"etcd", "--name", "x"}}, line{}, line{}, []string{"serve"},
			line{[]string{"/tini", "--"}, []string{"etcd", "serve", "--name", "x"}}},
		{"all in the entrypoint", line{[]string{"theseus", "serve", "--name", "x"}, nil}, line{}, line{}, []string{"serve"},
			line{[]string{"theseus", "serve", "--name", "x"}, nil}},
		{"nothing of its own", line{nil, []string{"/etcd"}}, line{Cmd: []string{"/etcd"}}, line{Entrypoint: []string{"/theseus"}}, []string{"serve"},
			line{[]string{"/theseus"}, []string{"serve"}}},
		{"an entrypoint that the new image lacks", line{[]string{"/etcd"}, []string{"--name", "x"}}, line{Entrypoint: []string{"/etcd"}}, line{Cmd: []string{"/etcd"}}, nil,
			line{[]string{"/etcd"}, []string{"--name", "x"}}},
	} {
		r := &remake{old: container.InspectResponse{Config: &container.Config{Entrypoint: c.old.Entrypoint, Cmd: c.old.Cmd}}, words: c.words}
		entrypoint, cmd := r.command(imageDefaults{Entrypoint: c.from.Entrypoint, Cmd: c.from.Cmd}, imageDefaults{Entrypoint: c.to.Entrypoint, Cmd: c.to.Cmd})
		if diff := cmp.Diff(c.want, line{entrypoint, cmd}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// TestUnknownSetting is a container of an engine that knows more than this tool.
func TestUnknownSetting(t *testing.T) {
	r := &remake{name: "etcd", old: container.InspectResponse{Config: &container.Config{}, HostConfig: &container.HostConfig{}}}
	for raw, want := range map[string]string{
		`{"Config":{"Hostname":"x"},"HostConfig":{"KernelMemory":0,"CpuShares":5}}`: "",
		`{"Config":{"MacAddress":"02:00"},"HostConfig":{}}`:                         `container etcd has Config.MacAddress="02:00", which this tool cannot carry over: make the container again by hand without it`,
		`{"Config":{},"HostConfig":{"Shiny":{"a":1}}}`:                              `container etcd has HostConfig.Shiny={"a":1}, which this tool cannot carry over: make the container again by hand without it`,
	} {
		r.raw = []byte(raw)
		got := ""
		if err := r.unknown(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", raw, got, want)
		}
	}
}

// TestMadeAgain is about what belongs to the operator and what to the image or engine.
func TestMadeAgain(t *testing.T) {
	id := "0123456789abcdef"
	old := container.InspectResponse{
		ID: id, Name: "/etcd", State: &container.State{},
		Config: &container.Config{Hostname: id[:12], Env: []string{"PATH=/bin", "A=1"}, Labels: map[string]string{"image": "old", "mine": "1"}, Entrypoint: []string{"/etcd"}},
		HostConfig: &container.HostConfig{NetworkMode: "n1", RestartPolicy: container.RestartPolicy{Name: "always"},
			Links: []string{"/other:/etcd/alias"}},
		NetworkSettings: &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{
			"n1": {Aliases: []string{id[:12], "etcd"}, NetworkID: "n", EndpointID: "e", Gateway: netip.MustParseAddr("10.0.0.1")},
			"n2": {Aliases: []string{id[:12]}, DriverOpts: map[string]string{"o": "1"}},
		}},
	}
	img := func(user string) image.InspectResponse {
		var i image.InspectResponse
		i.Config = &dockerspec.DockerOCIImageConfig{}
		i.Config.Env, i.Config.Labels, i.Config.User, i.Config.WorkingDir = []string{"PATH=/bin"}, map[string]string{"image": "old"}, user, user
		return i
	}
	r := &remake{name: "etcd", old: old, raw: []byte(`{}`), from: img(""), to: img("1000"), ref: "new:1"}
	opts, more, err := r.options()
	must(t, err)
	addrs := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if diff := cmp.Diff(&container.Config{Image: "new:1", Env: []string{"A=1"}, Labels: map[string]string{"mine": "1", ofLabel: "etcd"}, Entrypoint: []string{"/etcd"}, User: "0:0", WorkingDir: "/"}, opts.Config); diff != "" {
		t.Errorf("Config (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(&container.HostConfig{NetworkMode: "n1", RestartPolicy: container.RestartPolicy{Name: "no"}, Links: []string{"other:alias"}}, opts.HostConfig, addrs); diff != "" {
		t.Errorf("HostConfig (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]*network.EndpointSettings{"n1": {Aliases: []string{"etcd"}}}, opts.NetworkingConfig.EndpointsConfig, addrs); diff != "" {
		t.Errorf("first network (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]*network.EndpointSettings{"n2": {Aliases: []string{}, DriverOpts: map[string]string{"o": "1"}}}, more, addrs); diff != "" {
		t.Errorf("other networks (-want +got):\n%s", diff)
	}
	if old.Config.Labels["image"] != "old" || old.HostConfig.RestartPolicy.Name != "always" {
		t.Error("options changed the container that it was given")
	}
}
