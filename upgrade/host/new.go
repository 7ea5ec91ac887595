package host

import (
	"fmt"
	"strings"
)

// kinds are the ways to run a member; each file that builds one is named after it.
var kinds = map[string]func(Spec) (Executor, error){
	"process":   newProcess,
	"docker":    newDocker,
	"systemd":   newSystemd,
	"staticpod": newStaticPod,
}

// New returns the executor for spec. It connects to nothing yet: a host that cannot be
// reached is an error of the first method that needs it.
func New(spec Spec) (Executor, error) {
	make, ok := kinds[spec.Kind]
	if !ok {
		return nil, fmt.Errorf("host.kind: %q: write process, systemd, docker or staticpod", spec.Kind)
	}
	if err := spec.validate(); err != nil {
		return nil, err
	}
	return make(spec)
}

// field is one field of Spec by its name in the inventory, and the kinds that have it.
type field struct {
	name  string
	set   bool
	kinds string
	needs string // the kinds that cannot do without
}

// validate names the first field that spec's kind lacks, or has no use for: a field
// that would be passed over in silence is a member that is not run as it was written.
func (s *Spec) validate() error {
	const remote = "systemd docker staticpod"
	for _, f := range []field{
		{"ssh", s.SSH != "", remote, ""},
		{"sshKey", s.SSHKey != "", remote, ""},
		{"unit", s.Unit != "", "systemd", "systemd"},
		{"container", s.Container != "", "docker", "docker"},
		{"socket", s.Socket != "", "docker", ""},
		{"manifest", s.Manifest != "", "staticpod", "staticpod"},
		{"command", len(s.Command) > 0, "process", "process"},
		{"env", len(s.Env) > 0, "process", ""},
		{"dir", s.Dir != "", "process", ""},
		{"pidFile", s.PIDFile != "", "process", "process"},
		{"log", s.Log != "", "process", ""},
		{"sudo", s.Sudo, "systemd staticpod", ""},
		{"crictl", len(s.Crictl) > 0, "staticpod", ""},
		{"tryImage", len(s.TryImage) > 0, "staticpod", ""},
	} {
		if f.set && !hasWord(f.kinds, s.Kind) {
			return fmt.Errorf("host.%s: has no meaning for kind %s: take it out, or change the kind to %s", f.name, s.Kind, strings.ReplaceAll(f.kinds, " ", " or "))
		}
		if !f.set && hasWord(f.needs, s.Kind) {
			return fmt.Errorf("host.%s: is missing: a host of kind %s needs it", f.name, s.Kind)
		}
	}
	if s.SSHKey != "" && s.SSH == "" {
		return fmt.Errorf("host.sshKey: is of no use without host.ssh: write the host to log in to")
	}
	return nil
}

func hasWord(list, word string) bool {
	for _, w := range strings.Fields(list) {
		if w == word {
			return true
		}
	}
	return false
}
