// Package upgrade is the tool that moves a cluster: it gathers what the pure
// room plan judges, and shows what that room decided.
package upgrade

import (
	"fmt"
	"io"
)

const usage = `NAME
  theseus upgrade - move a cluster to another version without fear

USAGE
  theseus upgrade review [flags] ARTEFACT...   read scripts, units and manifests, name every hazard
  theseus upgrade check -f INVENTORY           ask every member whether the cluster can be moved now
  theseus upgrade plan -f INVENTORY            the steps to the target, with the way back at each
  theseus upgrade rehearse -f INVENTORY        the same plan on a copy of the cluster, made from a backup
  theseus upgrade apply -f INVENTORY           carry the plan out, or go on with the run that was begun
  theseus upgrade rollback -f INVENTORY        walk the run back, all of it or one member
  theseus upgrade status -f INVENTORY          where the run stands, and how the members are

  'theseus upgrade review --help' says more.
`

// Main runs one verb of the tool. Exit codes: 0 good, 1 failed, 2 usage, 3 findings that block.
func Main(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		_, _ = io.WriteString(stderr, usage)
		return 2
	}
	switch args[0] {
	case "review":
		return review(args[1:], stdout, stderr)
	case "check":
		return checkVerb(args[1:], stdout, stderr)
	case "plan":
		return planVerb(args[1:], stdout, stderr)
	case "rehearse":
		return rehearseVerb(args[1:], stdout, stderr)
	case "apply":
		return applyVerb(args[1:], stdout, stderr)
	case "rollback":
		return rollbackVerb(args[1:], stdout, stderr)
	case "status":
		return statusVerb(args[1:], stdout, stderr)
	case "help", "-h", "--help":
		_, _ = io.WriteString(stdout, usage)
		return 0
	}
	_, _ = fmt.Fprintf(stderr, "theseus upgrade: %q is not a command\nTry 'theseus upgrade help'.\n", args[0])
	return 2
}
