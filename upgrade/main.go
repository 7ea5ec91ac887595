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
	case "help", "-h", "--help":
		_, _ = io.WriteString(stdout, usage)
		return 0
	}
	_, _ = fmt.Fprintf(stderr, "theseus upgrade: %q is not a command\nTry 'theseus upgrade help'.\n", args[0])
	return 2
}
