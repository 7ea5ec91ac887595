package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/crypto/ssh"
)

const (
	engineSocket = "/var/run/docker.sock"
	maxLogBytes  = 4 << 20         // of a container's log that Logs reads
	termAgain    = 2 * time.Second // until a container that has not ended is sent SIGTERM once more
)

// docker runs a member as a container of an engine, here or behind ssh. The engine is
// also where everything is kept that has to outlive this tool, under names made of the
// container's, NAME:
//
//	NAME-theseus-kept-IMAGE  a container that was NAME before, stopped, never to be
//	                         restarted by the engine; IMAGE is the start of its image's ID
//	NAME-theseus-next        the one that is to become NAME; a Swap is under way
//	NAME-theseus-note        never started: its label holds NAME's restart policy, which
//	                         Stop takes away and Start gives back
//	NAME-theseus-version     asks an image for its version, without mounts or network
type docker struct {
	spec Spec
	opts []client.Opt // further options, of tests
	host *shell

	mu     sync.Mutex // guards what follows
	engine *client.Client
	remote *ssh.Client // nil on this machine, and until the engine is needed
}

func newDocker(spec Spec) (Executor, error) {
	spec.Container = strings.TrimPrefix(spec.Container, "/")
	return &docker{spec: spec, host: newShell(spec)}, nil
}

// connect returns the engine's client. The connection itself is made by the first call,
// and again by every call that finds it broken.
func (x *docker) connect() (*client.Client, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.engine != nil {
		return x.engine, nil
	}
	opts := []client.Opt{client.FromEnv}
	socket := strings.TrimPrefix(x.spec.Socket, "unix://")
	switch {
	case x.spec.SSH != "":
		if socket == "" {
			socket = engineSocket
		}
		opts = []client.Opt{client.WithHost("unix://" + socket), client.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
			return x.tunnel(ctx, socket)
		})}
	case strings.Contains(socket, "://"):
		opts = append(opts, client.WithHost(socket))
	case socket != "":
		opts = []client.Opt{client.WithHost("unix://" + socket)}
	}
	engine, err := client.New(append(opts, x.opts...)...)
	if err != nil {
		return nil, fmt.Errorf("set up the engine's client: %w: check host.socket and DOCKER_HOST", err)
	}
	x.engine = engine
	return engine, nil
}

// tunnel connects to a socket on the other host, over the ssh connection that there is
// or, when that has broken, a new one.
func (x *docker) tunnel(ctx context.Context, socket string) (net.Conn, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.remote != nil {
		conn, err := x.remote.DialContext(ctx, "unix", socket)
		var refused *ssh.OpenChannelError
		if err == nil || errors.As(err, &refused) || ctx.Err() != nil {
			return conn, err
		}
		_ = x.remote.Close()
		x.remote = nil
	}
	remote, err := dialSSH(ctx, x.spec)
	if err != nil {
		return nil, err
	}
	x.remote = remote
	return remote.DialContext(ctx, "unix", socket)
}

// inspect returns the container of a name, and false if there is none.
func (x *docker) inspect(ctx context.Context, name string) (client.ContainerInspectResult, bool, error) {
	engine, err := x.connect()
	if err != nil {
		return client.ContainerInspectResult{}, false, err
	}
	got, err := engine.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	switch {
	case errdefs.IsNotFound(err):
		return got, false, nil
	case err != nil:
		return got, false, fmt.Errorf("look at the container %s: %w: is the engine up, and may this user talk to it?", name, err)
	case strings.TrimPrefix(got.Container.Name, "/") != name && got.Container.ID != name:
		return got, false, nil // the engine also takes the start of an ID
	}
	return got, true, nil
}

// live returns the member's container. While a Swap is between its two renames it has
// the name of the one that is to come.
func (x *docker) live(ctx context.Context) (client.ContainerInspectResult, error) {
	for _, name := range []string{x.spec.Container, x.next()} {
		if got, ok, err := x.inspect(ctx, name); ok || err != nil {
			return got, err
		}
	}
	return client.ContainerInspectResult{}, fmt.Errorf("there is no container %s: check host.container with docker ps -a", x.spec.Container)
}

func (x *docker) next() string     { return x.spec.Container + "-theseus-next" }
func (x *docker) noteName() string { return x.spec.Container + "-theseus-note" }

// Inspect asks the engine.
func (x *docker) Inspect(ctx context.Context) (State, error) {
	got, err := x.live(ctx)
	if err != nil {
		return State{}, err
	}
	c := got.Container
	st := State{
		Running: c.State.Running, Program: Program{Image: x.imageName(ctx, c)},
		Args: containerArgs(c), Env: environment(c.Config.Env), Detail: "container " + short(c.ID) + " " + string(c.State.Status),
	}
	if c.State.Running {
		st.ID = short(c.ID) + "@" + c.State.StartedAt
	} else {
		st.Detail += fmt.Sprintf(", exit status %d at %s", c.State.ExitCode, c.State.FinishedAt)
	}
	if m, ok := mountOf(c, containerDir(c)); ok && m.Source != "" {
		st.DataDir = m.Source + strings.TrimPrefix(containerDir(c), strings.TrimSuffix(m.Destination, "/"))
		if x.spec.SSH == "" {
			st.Free = freeBytes(st.DataDir)
		} else {
			st.Free = x.host.freeBytes(ctx, st.DataDir)
		}
	}
	return st, nil
}

// imageName returns the image as the operator named it, or its ID when that name has
// come to mean another image.
func (x *docker) imageName(ctx context.Context, c container.InspectResponse) string {
	engine, err := x.connect()
	if err != nil {
		return c.Image
	}
	if img, err := engine.ImageInspect(ctx, c.Config.Image); err != nil || img.ID != c.Image {
		return c.Image
	}
	return c.Config.Image
}

// containerArgs returns the member's own arguments: what comes after its program.
func containerArgs(c container.InspectResponse) []string {
	all := append([]string{c.Path}, c.Args...)
	return memberArgs(all[len(programWords(all)):])
}

// containerDir returns the data directory in c, and "" when its command line does not
// tell it, because a shell or a file has it.
func containerDir(c container.InspectResponse) string {
	args := containerArgs(c)
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") || shellLine(c) {
		return ""
	}
	return dataDir(args, environment(c.Config.Env), c.Config.WorkingDir)
}

// shellLine tells whether c's command is a line of shell, which is not looked into.
func shellLine(c container.InspectResponse) bool { return len(c.Args) > 0 && c.Args[0] == "-c" }

// Stop takes the restart policy away, sends SIGTERM, and waits. The engine's own stop is
// not used: it ends in SIGKILL.
func (x *docker) Stop(ctx context.Context) error {
	c, err := x.settle(ctx)
	if err != nil {
		return err
	}
	if err := stoppable(c); err != nil {
		return err
	}
	if err := x.quiet(ctx, c); err != nil || !c.State.Running {
		return err
	}
	if c.State.Paused {
		return fmt.Errorf("container %s is paused and cannot be stopped: run docker unpause %s first", x.spec.Container, x.spec.Container)
	}
	return x.end(ctx, c)
}

// end sends SIGTERM to c until it has ended. Once is not enough: a container's first
// process is process 1 of its own little world, and to that the kernel does not deliver
// a signal that the program has not asked for yet, as in the first moments of its start.
func (x *docker) end(ctx context.Context, c container.InspectResponse) error {
	engine, err := x.connect()
	if err != nil {
		return err
	}
	waiting, cancel := context.WithCancel(ctx) // else the engine's answer waits for a reader
	defer cancel()
	waited := engine.ContainerWait(waiting, c.ID, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	again := time.NewTicker(termAgain)
	defer again.Stop()
	for {
		if _, err := engine.ContainerKill(ctx, c.ID, client.ContainerKillOptions{Signal: "SIGTERM"}); err != nil && ctx.Err() == nil && !errdefs.IsConflict(err) && !errdefs.IsNotFound(err) {
			return fmt.Errorf("send SIGTERM to the container %s: %w: look at docker ps", x.spec.Container, err)
		}
		select {
		case <-waited.Result:
			return nil
		case err := <-waited.Error:
			if ctx.Err() == nil {
				return fmt.Errorf("wait for the container %s to end: %w: is the engine up?", x.spec.Container, err)
			}
		case <-again.C:
			continue
		case <-ctx.Done():
		}
		return fmt.Errorf("stop container %s: %w: it was sent SIGTERM and is never killed: look into docker logs, and run again", x.spec.Container, ErrStillRunning)
	}
}

// stoppable refuses to stop what would be gone after it.
func stoppable(c container.InspectResponse) error {
	name := strings.TrimPrefix(c.Name, "/")
	if c.HostConfig.AutoRemove {
		return fmt.Errorf("container %s was run with --rm, and the engine removes it when it stops: run it without", name)
	}
	if m, ok := mountOf(c, containerDir(c)); ok && m.Type == "tmpfs" {
		return safe(c, containerDir(c), nil)
	}
	return nil
}

// Start starts the container, and gives it the restart policy back that Stop took.
func (x *docker) Start(ctx context.Context) error {
	c, err := x.settle(ctx)
	if err != nil {
		return err
	}
	engine, err := x.connect()
	if err != nil {
		return err
	}
	if !c.State.Running {
		if _, err := engine.ContainerStart(ctx, c.ID, client.ContainerStartOptions{}); err != nil {
			return fmt.Errorf("start container %s: %w: see docker logs %s", x.spec.Container, err, x.spec.Container)
		}
		if c, err = x.settle(ctx); err != nil {
			return err
		}
		if !c.State.Running {
			last, _ := x.Logs(ctx, 1)
			return fmt.Errorf("start container %s: it ended at once with status %d (%s): see docker logs %s", x.spec.Container, c.State.ExitCode, clip(strings.Join(last, "")), x.spec.Container)
		}
	}
	return x.restore(ctx, c)
}

// Logs returns what the engine has kept of the container's output.
func (x *docker) Logs(ctx context.Context, lines int) ([]string, error) {
	got, err := x.live(ctx)
	if err != nil {
		return nil, err
	}
	return x.logs(ctx, got.Container, lines)
}

func (x *docker) logs(ctx context.Context, c container.InspectResponse, lines int) ([]string, error) {
	engine, err := x.connect()
	if err != nil || lines <= 0 {
		return nil, err
	}
	r, err := engine.ContainerLogs(ctx, c.ID, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Tail: strconv.Itoa(lines)})
	if err != nil {
		return nil, fmt.Errorf("read the log of %s: %w: its log driver may not allow it: look where it writes to", strings.TrimPrefix(c.Name, "/"), err)
	}
	defer func() { _ = r.Close() }()
	out := &limited{left: maxLogBytes}
	if c.Config.Tty {
		_, err = out.ReadFrom(r)
	} else {
		_, err = stdcopy.StdCopy(out, out, r)
	}
	if err != nil {
		return nil, fmt.Errorf("read the log of %s: %w: try docker logs", strings.TrimPrefix(c.Name, "/"), err)
	}
	return lastLines(string(bytes.ReplaceAll(out.Bytes(), []byte("\r\n"), []byte("\n"))), lines), nil
}

// Close ends the connections to the engine and the host.
func (x *docker) Close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	err := x.host.close()
	if x.engine != nil {
		err = errors.Join(err, x.engine.Close())
	}
	if x.remote != nil {
		err = errors.Join(err, x.remote.Close())
	}
	x.engine, x.remote = nil, nil
	return err
}
