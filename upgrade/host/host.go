// Package host moves one member's program: it stages, stops, swaps and starts it, as
// a process, a systemd unit, a container or a static pod, here or over ssh. It knows
// nothing about etcd, and it never removes or overwrites a data directory.
//
// Every method asks first whether what it is to do is done already, so that a caller
// that was killed at any instruction does the same step again. What an executor must
// remember (which program was there before) it keeps on the host, not in memory.
package host

import (
	"context"
	"errors"
)

// Program is what a member runs: exactly one of the two is set.
type Program struct {
	Binary string `json:"binary,omitempty"` // absolute path on the member's host
	Image  string `json:"image,omitempty"`  // as the engine or the kubelet names it
}

// String returns the path or the image.
func (p Program) String() string {
	if p.Image != "" {
		return p.Image
	}
	return p.Binary
}

// State is what an executor sees of its member.
type State struct {
	Running bool              `json:"running"`
	ID      string            `json:"id,omitempty"`      // of this start: pid and start time, container, invocation, pod; another start has another ID
	Program Program           `json:"program"`           // what runs, or would run when started
	Args    []string          `json:"args,omitempty"`    // the member's arguments without the program
	Env     map[string]string `json:"env,omitempty"`     // as defined by the unit, container or manifest
	DataDir string            `json:"dataDir,omitempty"` // on the host, when args or mounts tell it
	Free    int64             `json:"free,omitempty"`    // bytes free on the file system of DataDir; 0 means not known
	Detail  string            `json:"detail,omitempty"`  // one line for people: "pid 812", "exited 2, 3 s ago"
}

// ErrStillRunning is returned by Swap on a member that runs, and by Stop when ctx ends
// before the member has ended: it was asked by SIGTERM and is never killed.
var ErrStillRunning = errors.New("the member is still running")

// Executor moves one member's program. Errors are one line and say what to do next.
type Executor interface {
	// Inspect reads and changes nothing.
	Inspect(ctx context.Context) (State, error)
	// Stage makes sure that p could be started: it is on the host, it can be executed,
	// and it can tell its version, which is returned as it was printed.
	Stage(ctx context.Context, p Program) (version string, err error)
	// Stop ends the member by SIGTERM, keeps it from being started again by its
	// supervisor, and returns when it has ended.
	Stop(ctx context.Context) error
	// Swap makes p what Start starts, with everything else as it was. The definition
	// that was there is kept, so that a Swap to its program puts it back as it was.
	Swap(ctx context.Context, p Program) error
	// Start starts what is defined and returns when the program runs (not when it is ready).
	Start(ctx context.Context) error
	// Logs returns the last lines that the member wrote.
	Logs(ctx context.Context, lines int) ([]string, error)
	// Finish removes what was kept for the way back. Only the end of a run calls it.
	Finish(ctx context.Context) error
	// Close ends connections; the member is left as it is.
	Close() error
}

// Spec says how one member is run, as the inventory has it under "host".
type Spec struct {
	Kind      string   `json:"kind"`                // process, systemd, docker or staticpod
	SSH       string   `json:"ssh,omitempty"`       // [user@]host[:port]; empty means this machine
	SSHKey    string   `json:"sshKey,omitempty"`    // private key file; empty means the agent and the default keys
	Unit      string   `json:"unit,omitempty"`      // systemd
	Container string   `json:"container,omitempty"` // docker
	Socket    string   `json:"socket,omitempty"`    // docker; empty means the engine's default
	Manifest  string   `json:"manifest,omitempty"`  // staticpod
	Command   []string `json:"command,omitempty"`   // process: program and arguments
	Env       []string `json:"env,omitempty"`       // process: NAME=value, added to this environment
	Dir       string   `json:"dir,omitempty"`       // process: working directory
	PIDFile   string   `json:"pidFile,omitempty"`   // process: where the pid stands; our notes stand beside it
	Log       string   `json:"log,omitempty"`       // process: where its output is appended; empty means PIDFile with .log behind it
	Sudo      bool     `json:"sudo,omitempty"`      // systemd, staticpod: every command goes through `sudo -n`
	Crictl    []string `json:"crictl,omitempty"`    // staticpod: what asks the container runtime; empty means crictl
	TryImage  []string `json:"tryImage,omitempty"`  // staticpod: what runs an image once, {image} in its place; empty means ctr
}
