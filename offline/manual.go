package offline

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"theseus/printer"
)

// utlName is the name under which everything is etcdutl's to the byte.
const utlName = "etcdutl"

// exitUsage is the exit code, under our own name, of a command line that makes no sense.
const exitUsage = 2

// page is the manual of one command under our own name. UTL in the examples stands
// for that name.
type page struct{ text, examples string }

const manRoot = `Works on the files of a member that is stopped, and on snapshot files. It needs no server.

Commands that only look (snapshot status, hashkv, verify) change nothing. The others need the
directory for themselves and wait for its lock as long as --timeout says.`

// manual is by the words of the command.
var manual = map[string]page{
	"snapshot": {`Looks at backups made by ctl snapshot save, and makes members of them.`, ``},
	"snapshot status": {`Shows what a snapshot file holds: hash, revision, number of keys, size and storage version.
The checksum at the end of the file and every page are verified first.`,
		`UTL snapshot status backup.db -w table`},
	"snapshot restore": {`Makes the data directory of a new member from a snapshot. Do it once for every member of the
new cluster, with the same file, the same --initial-cluster and --initial-cluster-token, and
that member's own --name and --initial-advertise-peer-urls. The directory must not exist;
what is written appears complete or not at all.

Clients that remember revisions, as Kubernetes does, must not see them go back: raise them
with --bump-revision, together with --mark-compacted.`,
		`# a cluster of one
UTL snapshot restore backup.db --data-dir data

# the first of three
UTL snapshot restore backup.db --data-dir data --name m1 \
  --initial-cluster m1=http://10.0.0.1:2380,m2=http://10.0.0.2:2380,m3=http://10.0.0.3:2380 \
  --initial-advertise-peer-urls http://10.0.0.1:2380

# under Kubernetes
UTL snapshot restore backup.db --data-dir data --bump-revision 1000000000 --mark-compacted`},
	"hashkv": {`Hashes all keys and their history up to a revision, as ctl endpoint hashkv does for a running
member. Two members, or a member and its backup, agree if their hashes do.`,
		`UTL hashkv data/member/snap/db --rev 1200`},
	"defrag": {`Rewrites the database of a stopped member without the space that compactions have freed.
A running member does it with ctl defrag.`,
		`UTL defrag --data-dir data`},
	"migrate": {`Prepares the data directory of a stopped member for another minor version, as a cluster's own
downgrade does. Versions from 3.5 on are known.`,
		`UTL migrate --data-dir data --target-version 3.6`},
	"verify": {`Checks the log, the snapshots and the database of a stopped member against each other and
changes nothing. For all that is wrong it names the file, the offset, what is wrong and what
to do; the exit code is then 1.`,
		`UTL verify --data-dir data

UTL verify --data-dir data --wal-dir /fast/wal -w json`},
	"version": {`Prints the version of the formats that this program writes.`, `UTL version`},
}

// ownName gives the tree our name and the manual.
func (t *tool) ownName(root *cobra.Command) {
	root.Use = t.name[strings.LastIndex(t.name, " ")+1:]
	root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: t.name}
	root.SilenceErrors, root.SilenceUsage = true, true
	root.Long = manRoot
	visit(root, func(cmd *cobra.Command) {
		m, ok := manual[strings.TrimPrefix(strings.TrimPrefix(cmd.CommandPath(), t.name), " ")]
		if ok {
			cmd.Long = m.text
			cmd.Example = indent(strings.ReplaceAll(m.examples, "UTL", t.name))
		}
		if cmd.Name() == "completion" {
			cmd.RunE = run(t.completion)
		}
		if fn := cmd.RunE; fn != nil {
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				t.ran = true
				return fn(cmd, args)
			}
		}
	})
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) {
		text := cmd.Long
		if text == "" {
			text = cmd.Short
		}
		_, _ = io.WriteString(t.stdout, strings.TrimSpace(text)+"\n\n"+cmd.UsageString())
	})
}

// completion writes the script for the program that is called: of "theseus offline"
// that is theseus, which asks its part of the words on.
func (t *tool) completion(args []string) error {
	program, _, _ := strings.Cut(t.name, " ")
	root := &cobra.Command{Use: program}
	switch args[0] {
	case "bash":
		return root.GenBashCompletionV2(t.stdout, true)
	case "zsh":
		return root.GenZshCompletion(t.stdout)
	case "fish":
		return root.GenFishCompletion(t.stdout, true)
	}
	return root.GenPowerShellCompletionWithDesc(t.stdout)
}

func visit(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, c := range cmd.Commands() {
		visit(c, f)
	}
}

func indent(s string) string {
	if s == "" {
		return ""
	}
	return "  " + strings.ReplaceAll(s, "\n", "\n  ")
}

// ownError says what failed and what to do next, and returns the exit code. usage
// tells that the command line could not even be read.
func (t *tool) ownError(path string, err error, usage bool) int {
	coded := new(exitError)
	usage = usage || errors.As(err, &coded)
	_, _ = fmt.Fprintln(t.stderr, "Error:", err)
	switch {
	case errors.Is(err, printer.ErrUnknownFormat):
		_, _ = fmt.Fprintln(t.stderr, "The formats are fields, json, protobuf, simple and table.")
	case errors.Is(err, errNoHash):
		_, _ = fmt.Fprintln(t.stderr, "A file copied from a data directory has none: say --skip-hash-check if it is one, else take another snapshot.")
	case errors.Is(err, fs.ErrNotExist):
		_, _ = fmt.Fprintln(t.stderr, "Check the path.")
	case errors.Is(err, fs.ErrPermission):
		_, _ = fmt.Fprintln(t.stderr, "Check who may read and write there.")
	case usage:
		_, _ = fmt.Fprintf(t.stderr, "`%s --help` has the arguments, the flags and examples.\n", path)
	}
	if usage {
		return exitUsage
	}
	return exitFailed
}
