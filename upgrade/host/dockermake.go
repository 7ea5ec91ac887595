package host

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

// ofLabel marks every container that this tool made with the name of the member's.
const ofLabel = "theseus.upgrade.of"

// remake is what a container is made again from: what it is, and which image it
// runs and is to run. Its methods are pure.
type remake struct {
	name  string // the member's container
	old   container.InspectResponse
	raw   json.RawMessage // old as the engine told it
	from  image.InspectResponse
	to    image.InspectResponse
	ref   string   // to as the operator names it
	words []string // what to's program wants before a member's arguments
}

// options returns how to create the container again with only its image changed, and
// the networks to connect it to besides the first, by name. What the old image gave to
// the container comes from the new image; what the operator gave stays.
func (r *remake) options() (client.ContainerCreateOptions, map[string]*network.EndpointSettings, error) {
	if err := r.unknown(); err != nil {
		return client.ContainerCreateOptions{}, nil, err
	}
	conf, hostConf := *r.old.Config, *r.old.HostConfig
	from, to := imageConfig(r.from), imageConfig(r.to)
	conf.Image = r.ref
	conf.OnBuild = nil
	conf.Env = without(conf.Env, from.Env)
	conf.Labels = maps.Clone(conf.Labels)
	maps.DeleteFunc(conf.Labels, func(k, v string) bool { had, ok := from.Labels[k]; return ok && had == v })
	if conf.Labels == nil {
		conf.Labels = map[string]string{}
	}
	conf.Labels[ofLabel] = r.name
	conf.ExposedPorts = maps.Clone(conf.ExposedPorts)
	maps.DeleteFunc(conf.ExposedPorts, func(p network.Port, _ struct{}) bool {
		_, ok := from.ExposedPorts[p.String()]
		return ok
	})
	if reflect.DeepEqual(conf.Healthcheck, from.Healthcheck) {
		conf.Healthcheck = nil
	}
	if conf.StopSignal == from.StopSignal {
		conf.StopSignal = ""
	}
	// The files belong to the old user, and a relative data directory hangs on the old
	// working directory: neither is the new image's to choose.
	if conf.User == "" && to.User != "" {
		conf.User = "0:0"
	}
	if conf.WorkingDir == "" && to.WorkingDir != "" {
		conf.WorkingDir = "/"
	}
	if defaultHostname(r.old) {
		conf.Hostname = ""
	}
	hostConf.RestartPolicy = container.RestartPolicy{Name: container.RestartPolicyDisabled}
	hostConf.Links = links(hostConf.Links)
	conf.Volumes = maps.Clone(conf.Volumes)
	for p := range from.Volumes {
		delete(conf.Volumes, p)
	}
	hostConf.Mounts = slices.Clone(hostConf.Mounts)
	for _, m := range anonymous(r.old) {
		delete(conf.Volumes, m.Destination)
		hostConf.Mounts = append(hostConf.Mounts, mount.Mount{Type: mount.TypeVolume, Source: m.Name, Target: m.Destination, ReadOnly: !m.RW})
	}
	conf.Entrypoint, conf.Cmd = r.command(from, to)
	first, more := endpoints(r.old)
	return client.ContainerCreateOptions{Config: &conf, HostConfig: &hostConf, NetworkingConfig: first}, more, nil
}

// command returns the entrypoint and command to create with.
func (r *remake) command(from, to imageDefaults) (entrypoint, cmd []string) {
	conf := r.old.Config
	entrypoint, cmd = conf.Entrypoint, slices.Clone(conf.Cmd)
	inherited := slices.Equal(entrypoint, from.Entrypoint)
	if inherited && len(entrypoint) > 0 && len(to.Entrypoint) > 0 {
		entrypoint = to.Entrypoint
		if slices.Equal(cmd, from.Cmd) {
			cmd = slices.Clone(to.Cmd)
		}
	} else if inherited && len(entrypoint) == 0 && slices.Equal(cmd, from.Cmd) {
		entrypoint, cmd = to.Entrypoint, slices.Clone(to.Cmd)
	}
	if n := len(programWords(slices.Concat(entrypoint, cmd))); n < len(entrypoint) {
		entrypoint = slices.Concat(entrypoint[:n], r.words, memberArgs(entrypoint[n:]))
	} else if at := n - len(entrypoint); n > 0 {
		cmd = slices.Concat(cmd[:at], r.words, memberArgs(cmd[at:]))
	}
	if len(entrypoint) == 0 && len(to.Entrypoint) > 0 {
		entrypoint = []string{""} // the engine's spelling for none, not even the image's
	}
	return entrypoint, cmd
}

// programWords returns the start of a command line up to the program that is the member:
// past an init such as tini, or an entrypoint script that is given the program's name.
func programWords(argv []string) []string {
	for i, a := range argv {
		if base := path.Base(a); !strings.HasPrefix(a, "-") && (strings.HasPrefix(base, "etcd") || strings.HasPrefix(base, "theseus")) {
			return argv[:i+1]
		}
		if strings.HasPrefix(a, "-") && a != "--" {
			break
		}
	}
	return argv[:min(1, len(argv))]
}

// unknown refuses a container with a setting that this tool's client has no field for:
// it would be lost without a word.
func (r *remake) unknown() error {
	var raw struct{ Config, HostConfig map[string]json.RawMessage }
	if err := json.Unmarshal(r.raw, &raw); err != nil {
		return fmt.Errorf("read the container %s: %w: is this the engine's API?", r.name, err)
	}
	for _, part := range []struct {
		name string
		raw  map[string]json.RawMessage
		of   reflect.Type
	}{{"Config", raw.Config, reflect.TypeFor[container.Config]()}, {"HostConfig", raw.HostConfig, reflect.TypeFor[container.HostConfig]()}} {
		known := jsonFields(part.of)
		for _, key := range slices.Sorted(maps.Keys(part.raw)) {
			switch v := string(part.raw[key]); {
			case known[key] || slices.Contains([]string{"null", "0", "false", `""`, "[]", "{}", "-1"}, v):
			default:
				return fmt.Errorf("container %s has %s.%s=%s, which this tool cannot carry over: make the container again by hand without it", r.name, part.name, key, clip(v))
			}
		}
	}
	return nil
}

func jsonFields(t reflect.Type) map[string]bool {
	names := map[string]bool{}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			maps.Copy(names, jsonFields(f.Type))
		case name == "":
			names[f.Name] = true
		default:
			names[name] = true
		}
	}
	return names
}

// imageDefaults is what an image gives to a container that does not say otherwise.
type imageDefaults struct {
	Env, Entrypoint, Cmd         []string
	Labels                       map[string]string
	ExposedPorts, Volumes        map[string]struct{}
	Healthcheck                  *container.HealthConfig
	StopSignal, User, WorkingDir string
}

func imageConfig(img image.InspectResponse) imageDefaults {
	c := img.Config
	if c == nil {
		return imageDefaults{}
	}
	return imageDefaults{c.Env, c.Entrypoint, c.Cmd, c.Labels, c.ExposedPorts, c.Volumes, c.Healthcheck, c.StopSignal, c.User, c.WorkingDir}
}

func without(all, drop []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(drop, s) })
}

// short is how the engine abbreviates an ID in host names and aliases.
func short(id string) string { return id[:min(12, len(id))] }

// defaultHostname tells whether the host name is the engine's and not the operator's.
func defaultHostname(c container.InspectResponse) bool {
	return c.Config.Hostname == short(c.ID) || c.HostConfig.NetworkMode.IsContainer() || c.HostConfig.UTSMode.IsHost()
}

// links turns what inspect says, "/other:/member/alias", into what create takes.
func links(have []string) []string {
	var out []string
	for _, l := range have {
		target, alias, _ := strings.Cut(l, ":")
		out = append(out, strings.TrimPrefix(target, "/")+":"+path.Base(alias))
	}
	return out
}

// anonymous returns the volumes that no option of the container names: the engine made
// them with it, and would make new, empty ones with another.
func anonymous(c container.InspectResponse) []container.MountPoint {
	named := map[string]bool{}
	for _, b := range c.HostConfig.Binds {
		if parts := strings.Split(b, ":"); len(parts) > 1 {
			named[parts[1]] = true
		}
	}
	for _, m := range c.HostConfig.Mounts {
		named[m.Target] = m.Source != ""
	}
	var out []container.MountPoint
	for _, m := range c.Mounts {
		if m.Type == mount.TypeVolume && !named[m.Destination] && len(c.HostConfig.VolumesFrom) == 0 {
			out = append(out, m)
		}
	}
	return out
}

// endpoints returns the networks of c as they were asked for, without what the engine
// added: the one that it is created in, and those that it is connected to afterwards.
func endpoints(c container.InspectResponse) (*network.NetworkingConfig, map[string]*network.EndpointSettings) {
	mode := c.HostConfig.NetworkMode
	if c.NetworkSettings == nil || mode.IsHost() || mode.IsNone() || mode.IsContainer() {
		return nil, nil
	}
	first := mode.NetworkName()
	if mode.IsDefault() {
		first = network.NetworkBridge
	}
	var in *network.NetworkingConfig
	more := map[string]*network.EndpointSettings{}
	for name, e := range c.NetworkSettings.Networks {
		if e == nil {
			e = &network.EndpointSettings{}
		}
		kept := &network.EndpointSettings{
			IPAMConfig: e.IPAMConfig.Copy(), Links: slices.Clone(e.Links), DriverOpts: maps.Clone(e.DriverOpts),
			Aliases: without(e.Aliases, []string{short(c.ID), c.ID}), GwPriority: e.GwPriority,
		}
		if !c.State.Running {
			kept.MacAddress = e.MacAddress // asked for: the engine's own are gone with the stop
		}
		if name == first || e.NetworkID != "" && e.NetworkID == string(mode) {
			in = &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{name: kept}}
			continue
		}
		more[name] = kept
	}
	return in, more
}

// safe refuses a container whose data would not be there for one made again, or would be
// gone when it stops.
func safe(c container.InspectResponse, dir string, changed []string) error {
	name := strings.TrimPrefix(c.Name, "/")
	for _, p := range changed {
		if strings.HasSuffix(p, "/member/snap/db") || strings.HasSuffix(p, "/member/wal") {
			return fmt.Errorf("container %s has its data in its own layer (%s), where a new container has none: copy it with docker cp to a volume while it is stopped, and run it from there", name, p)
		}
	}
	if dir == "" {
		if a := anonymous(c); len(a) > 0 {
			return fmt.Errorf("container %s has an anonymous volume (%s at %s), and no flag says whether its data is there: run it with -v %s:%s", name, a[0].Name, a[0].Destination, a[0].Name, a[0].Destination)
		}
		return nil
	}
	m, ok := mountOf(c, dir)
	switch {
	case !ok:
		return fmt.Errorf("container %s has its data directory %s on no mount, where a new container has none: copy it with docker cp to a volume while it is stopped, and run it from there", name, dir)
	case m.Type != mount.TypeBind && m.Type != mount.TypeVolume:
		return fmt.Errorf("container %s has its data directory %s on a %s, which ends with it: move the data to a volume first", name, dir, m.Type)
	case slices.ContainsFunc(anonymous(c), func(a container.MountPoint) bool { return a.Destination == m.Destination }):
		return fmt.Errorf("container %s has its data directory on an anonymous volume, which docker rm -v removes: run it with -v %s:%s", name, m.Name, m.Destination)
	}
	return nil
}

// mountOf returns the mount that holds dir.
func mountOf(c container.InspectResponse, dir string) (best container.MountPoint, ok bool) {
	for _, m := range mounts(c) {
		at := path.Clean(m.Destination)
		if (dir == at || strings.HasPrefix(dir, strings.TrimSuffix(at, "/")+"/")) && len(at) >= len(best.Destination) {
			best, ok = m, true
		}
	}
	return best, ok
}

// mounts are c's mounts with the --tmpfs ones, which inspect lists elsewhere.
func mounts(c container.InspectResponse) []container.MountPoint {
	all := slices.Clone(c.Mounts)
	for p := range c.HostConfig.Tmpfs {
		all = append(all, container.MountPoint{Type: mount.TypeTmpfs, Destination: p})
	}
	return all
}
