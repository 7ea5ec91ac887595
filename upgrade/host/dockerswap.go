package host

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/client"
)

// restartLabel holds, on the note, the restart policy as name:count.
const restartLabel = "theseus.upgrade.restart"

// Stage looks for the image in the engine, makes sure that the container could be made
// again from it without losing anything, and runs the member's program in it with
// --version. It never pulls: what runs is what the operator has put there.
func (x *docker) Stage(ctx context.Context, p Program) (string, error) {
	got, err := x.live(ctx)
	if err != nil {
		return "", err
	}
	version, _, err := x.prepare(ctx, got, p)
	return version, err
}

// prepare returns what the image of p says of its version, and what to make from it.
func (x *docker) prepare(ctx context.Context, live client.ContainerInspectResult, p Program) (string, *remake, error) {
	engine, err := x.connect()
	if err != nil {
		return "", nil, err
	}
	img, err := x.image(ctx, p)
	if err != nil {
		return "", nil, err
	}
	c := live.Container
	if err := stoppable(c); err != nil {
		return "", nil, err
	}
	diff, err := engine.ContainerDiff(ctx, c.ID, client.ContainerDiffOptions{})
	if err != nil {
		return "", nil, fmt.Errorf("look at what %s has in its own layer: %w: is the engine up?", x.spec.Container, err)
	}
	var changed []string
	for _, f := range diff.Changes {
		changed = append(changed, f.Path)
	}
	if err := safe(c, containerDir(c), changed); err != nil {
		return "", nil, err
	}
	from, err := engine.ImageInspect(ctx, c.Image)
	if err != nil {
		return "", nil, fmt.Errorf("look at the image of %s: %w: docker load it again", x.spec.Container, err)
	}
	r := &remake{name: x.spec.Container, old: c, raw: live.Raw, from: from.InspectResponse, to: img, ref: p.Image}
	version, err := x.version(ctx, r)
	if err != nil {
		return "", nil, err
	}
	r.words = words(version)
	return version, r, nil
}

// image finds p's image.
func (x *docker) image(ctx context.Context, p Program) (image.InspectResponse, error) {
	if p.Binary != "" || p.Image == "" {
		return image.InspectResponse{}, fmt.Errorf("host of kind docker cannot run %q: name an image, not a binary", p)
	}
	engine, err := x.connect()
	if err != nil {
		return image.InspectResponse{}, err
	}
	img, err := engine.ImageInspect(ctx, p.Image)
	switch {
	case errdefs.IsNotFound(err):
		return image.InspectResponse{}, fmt.Errorf("image %s is not in the engine: run docker pull %s there, or docker load", p, p)
	case err != nil:
		return image.InspectResponse{}, fmt.Errorf("look for the image %s: %w: is the engine up, and may this user talk to it?", p, err)
	}
	return img.InspectResponse, nil
}

// version runs the program that r would run with --version, as the same user, in a
// container without mounts or network.
func (x *docker) version(ctx context.Context, r *remake) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*versionTimeout)
	defer cancel()
	engine, err := x.connect()
	if err != nil {
		return "", err
	}
	opts, _, err := r.options()
	if err != nil {
		return "", err
	}
	p := Program{Image: r.ref}
	argv := programWords(slices.Concat(opts.Config.Entrypoint, opts.Config.Cmd))
	if shellLine(r.old) {
		argv = []string{"etcd"}
	}
	if len(argv) > 0 && argv[0] == "" {
		argv = programWords(opts.Config.Cmd)
	}
	if len(argv) == 0 {
		return "", fmt.Errorf("image %s names no program, and the container %s gives none: build it with an ENTRYPOINT", p, r.name)
	}
	name := x.spec.Container + "-theseus-version"
	remove := func() {
		gone, cancel := context.WithTimeout(context.WithoutCancel(ctx), versionTimeout)
		defer cancel()
		_, _ = engine.ContainerRemove(gone, name, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	}
	switch left, ok, err := x.inspect(ctx, name); {
	case err != nil:
		return "", err
	case ok && left.Container.Config.Labels[ofLabel] == "":
		return "", fmt.Errorf("ask %s for its version: a container %s is in the way, and it is not ours: rename or remove it", p, name)
	case ok:
		remove() // of a run that was killed
	}
	made, err := engine.ContainerCreate(ctx, client.ContainerCreateOptions{
		Name:       name,
		Config:     &container.Config{Image: r.to.ID, Entrypoint: argv[:1], Cmd: append(slices.Clone(argv[1:]), "--version"), User: opts.Config.User, WorkingDir: opts.Config.WorkingDir, Labels: map[string]string{ofLabel: r.name}, NetworkDisabled: true, Healthcheck: &container.HealthConfig{Test: []string{"NONE"}}},
		HostConfig: &container.HostConfig{NetworkMode: "none"},
	})
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w: is it built for this machine?", p, err)
	}
	defer remove()
	waited := engine.ContainerWait(ctx, made.ID, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	if _, err := engine.ContainerStart(ctx, made.ID, client.ContainerStartOptions{}); err != nil {
		return "", fmt.Errorf("ask %s for its version with %s --version: %w: the container %s needs that program in the image", p, strings.Join(argv, " "), err, r.name)
	}
	select {
	case <-waited.Result:
	case err := <-waited.Error:
		return "", fmt.Errorf("ask %s for its version: %w: is the engine up?", p, err)
	}
	got, err := engine.ContainerInspect(ctx, made.ID, client.ContainerInspectOptions{})
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w: is the engine up?", p, err)
	}
	out, err := x.logs(ctx, got.Container, 100)
	if err != nil {
		return "", err
	}
	if status := got.Container.State.ExitCode; status != 0 {
		return "", fmt.Errorf("ask %s for its version: %s --version ended with status %d (%s): is it built for this machine?", p, strings.Join(argv, " "), status, clip(strings.Join(out, " ")))
	}
	return printed(p, strings.Join(out, "\n"))
}

// Swap makes the next container complete under a name of its own before the member's
// container is renamed, so that what the engine refuses is refused before anything has
// changed, and a tool that is killed leaves nothing half made under the member's name.
func (x *docker) Swap(ctx context.Context, p Program) error {
	c, err := x.settle(ctx)
	if err != nil {
		return err
	}
	is, err := x.runs(ctx, c, p)
	if err != nil {
		return err
	}
	if is {
		return x.dropNext(ctx)
	}
	if c.State.Running {
		return fmt.Errorf("swap to %s: %w as container %s: stop it first", p, ErrStillRunning, short(c.ID))
	}
	if err := x.quiet(ctx, c); err != nil {
		return err
	}
	if err := x.makeNext(ctx, p); err != nil {
		return err
	}
	if err := x.rename(ctx, c, x.keptName(c)); err != nil {
		return err
	}
	_, err = x.settle(ctx)
	return err
}

// runs tells whether c runs p's image. A name that means nothing to the engine any more
// is compared with the name that c was made with.
func (x *docker) runs(ctx context.Context, c container.InspectResponse, p Program) (bool, error) {
	if c.Image == p.Image {
		return true, nil
	}
	engine, err := x.connect()
	if err != nil {
		return false, err
	}
	img, err := engine.ImageInspect(ctx, p.Image)
	if errdefs.IsNotFound(err) {
		return c.Config.Image == p.Image, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the image %s: %w: is the engine up?", p, err)
	}
	return c.Image == img.ID, nil
}

// keptName is where c goes when another takes its place.
func (x *docker) keptName(c container.InspectResponse) string {
	return x.spec.Container + "-theseus-kept-" + short(strings.TrimPrefix(c.Image, "sha256:"))
}

// settle ends a Swap that was killed between its two renames, and returns the member's
// container.
func (x *docker) settle(ctx context.Context) (container.InspectResponse, error) {
	got, err := x.live(ctx)
	if err != nil {
		return got.Container, err
	}
	if strings.TrimPrefix(got.Container.Name, "/") == x.next() {
		if err := x.rename(ctx, got.Container, x.spec.Container); err != nil {
			return got.Container, err
		}
		got, err = x.live(ctx)
	}
	return got.Container, err
}

// makeNext leaves a complete container of p under the name of the next: the kept one
// that ran p before, or a new one.
func (x *docker) makeNext(ctx context.Context, p Program) error {
	next, ok, err := x.inspect(ctx, x.next())
	if err != nil {
		return err
	}
	if ok {
		is, err := x.runs(ctx, next.Container, p)
		if err != nil {
			return err
		}
		if is && !unused(next.Container) {
			return nil
		}
		// Never started and made by us: it may lack a network, and holds nothing.
		if err := x.dropNext(ctx); err != nil {
			return err
		}
	}
	kept, err := x.kept(ctx)
	if err != nil {
		return err
	}
	for _, k := range kept {
		is, err := x.runs(ctx, k, p)
		if err != nil {
			return err
		}
		if is {
			return x.rename(ctx, k, x.next())
		}
	}
	return x.create(ctx, p)
}

// create makes the next container from the member's.
func (x *docker) create(ctx context.Context, p Program) error {
	live, err := x.live(ctx)
	if err != nil {
		return err
	}
	_, r, err := x.prepare(ctx, live, p)
	if err != nil {
		return err
	}
	opts, more, err := r.options()
	if err != nil {
		return err
	}
	engine, err := x.connect()
	if err != nil {
		return err
	}
	opts.Name = x.next()
	made, err := engine.ContainerCreate(ctx, opts)
	if err != nil {
		return fmt.Errorf("make the container %s again from %s: %w: nothing has changed: see what the engine refuses", r.name, p, err)
	}
	for name, e := range more {
		if _, err := engine.NetworkConnect(ctx, name, client.NetworkConnectOptions{Container: made.ID, EndpointConfig: e}); err != nil {
			return fmt.Errorf("connect the container %s to the network %s: %w: is the network there?", r.name, name, err)
		}
	}
	return nil
}

// unused tells whether c was made by this tool and never started.
func unused(c container.InspectResponse) bool {
	return c.Config.Labels[ofLabel] != "" && c.State.Status == container.StateCreated
}

// dropNext undoes what a Swap had made ready: a container that has run goes back to
// where it was kept, one that never has is removed.
func (x *docker) dropNext(ctx context.Context) error {
	next, ok, err := x.inspect(ctx, x.next())
	if err != nil || !ok {
		return err
	}
	if !unused(next.Container) {
		return x.rename(ctx, next.Container, x.keptName(next.Container))
	}
	return x.remove(ctx, next.Container)
}

// kept returns the containers that were the member's before.
func (x *docker) kept(ctx context.Context) ([]container.InspectResponse, error) {
	engine, err := x.connect()
	if err != nil {
		return nil, err
	}
	all, err := engine.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		return nil, fmt.Errorf("list the containers: %w: is the engine up?", err)
	}
	var out []container.InspectResponse
	for _, c := range all.Items {
		if !slices.ContainsFunc(c.Names, func(n string) bool { return strings.HasPrefix(n, "/"+x.spec.Container+"-theseus-kept-") }) {
			continue
		}
		got, err := engine.ContainerInspect(ctx, c.ID, client.ContainerInspectOptions{})
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look at the container %s: %w: is the engine up?", short(c.ID), err)
		}
		if strings.TrimPrefix(got.Container.Name, "/") == x.keptName(got.Container) {
			out = append(out, got.Container)
		}
	}
	return out, nil
}

func (x *docker) rename(ctx context.Context, c container.InspectResponse, to string) error {
	engine, err := x.connect()
	if err != nil {
		return err
	}
	if _, err := engine.ContainerRename(ctx, c.ID, client.ContainerRenameOptions{NewName: to}); err != nil {
		return fmt.Errorf("rename the container %s to %s: %w: remove a container that is in the way, and run again", strings.TrimPrefix(c.Name, "/"), to, err)
	}
	return nil
}

// remove removes a container that is stopped, and none of its volumes.
func (x *docker) remove(ctx context.Context, c container.InspectResponse) error {
	engine, err := x.connect()
	if err != nil {
		return err
	}
	if _, err := engine.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{}); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove the container %s: %w: stop it if it runs", strings.TrimPrefix(c.Name, "/"), err)
	}
	return nil
}

// quiet takes c's restart policy away, after the note has it.
func (x *docker) quiet(ctx context.Context, c container.InspectResponse) error {
	policy := c.HostConfig.RestartPolicy
	if policy.IsNone() {
		return nil
	}
	engine, err := x.connect()
	if err != nil {
		return err
	}
	text := string(policy.Name) + ":" + strconv.Itoa(policy.MaximumRetryCount)
	note, ok, err := x.inspect(ctx, x.noteName())
	if err != nil {
		return err
	}
	if ok && note.Container.Config.Labels[restartLabel] != text {
		if err := x.remove(ctx, note.Container); err != nil {
			return err
		}
		ok = false
	}
	if !ok {
		_, err := engine.ContainerCreate(ctx, client.ContainerCreateOptions{
			Name:       x.noteName(),
			Config:     &container.Config{Image: c.Image, Entrypoint: []string{"never-started"}, Labels: map[string]string{ofLabel: x.spec.Container, restartLabel: text}},
			HostConfig: &container.HostConfig{NetworkMode: "none"},
		})
		if err != nil {
			return fmt.Errorf("note the restart policy of %s: %w: has the engine's disk room?", x.spec.Container, err)
		}
	}
	return x.setPolicy(ctx, c, container.RestartPolicy{Name: container.RestartPolicyDisabled})
}

// restore gives c the restart policy that the note has.
func (x *docker) restore(ctx context.Context, c container.InspectResponse) error {
	note, ok, err := x.inspect(ctx, x.noteName())
	if err != nil || !ok || !c.HostConfig.RestartPolicy.IsNone() {
		return err
	}
	name, count, _ := strings.Cut(note.Container.Config.Labels[restartLabel], ":")
	n, err := strconv.Atoi(count)
	if err != nil {
		return fmt.Errorf("read the restart policy from the container %s: %q: set it with docker update --restart, and remove that container", x.noteName(), count)
	}
	return x.setPolicy(ctx, c, container.RestartPolicy{Name: container.RestartPolicyMode(name), MaximumRetryCount: n})
}

func (x *docker) setPolicy(ctx context.Context, c container.InspectResponse, policy container.RestartPolicy) error {
	engine, err := x.connect()
	if err != nil {
		return err
	}
	if _, err := engine.ContainerUpdate(ctx, c.ID, client.ContainerUpdateOptions{RestartPolicy: &policy}); err != nil {
		return fmt.Errorf("set the restart policy of %s to %s: %w: run again when it is neither starting nor being removed", strings.TrimPrefix(c.Name, "/"), policy.Name, err)
	}
	return nil
}

// Finish removes the kept containers, and the note when its policy is in force. Volumes
// stay, also those that only a kept container had.
func (x *docker) Finish(ctx context.Context) error {
	c, err := x.settle(ctx)
	if err != nil {
		return err
	}
	if err := x.dropNext(ctx); err != nil {
		return err
	}
	if err := x.restore(ctx, c); err != nil {
		return err
	}
	kept, err := x.kept(ctx)
	if err != nil {
		return err
	}
	for _, k := range kept {
		if err := x.remove(ctx, k); err != nil {
			return err
		}
	}
	note, ok, err := x.inspect(ctx, x.noteName())
	if err != nil || !ok {
		return err
	}
	return x.remove(ctx, note.Container)
}
