package offline

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestOwnName checks what is different under our own name.
func TestOwnName(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		line, want string
		code       int
	}{
		{"snapshot status", "Error: snapshot status requires exactly one argument\n" +
			"`theseus offline snapshot status --help` has the arguments, the flags and examples.\n", 2},
		{"snapshot status DIR/absent", "Error: stat DIR/absent: no such file or directory\nCheck the path.\n", 1},
		{"hashkv", "Error: accepts 1 arg(s), received 0\n`theseus offline hashkv --help` has the arguments, the flags and examples.\n", 2},
		{"verify", "Error: required flag(s) \"data-dir\" not set\n`theseus offline verify --help` has the arguments, the flags and examples.\n", 2},
		{"nosuch", "Error: unknown command \"nosuch\" for \"theseus offline\"\n`theseus offline --help` has the arguments, the flags and examples.\n", 2},
		{"defrag --nosuch", "Error: unknown flag: --nosuch\n`theseus offline defrag --help` has the arguments, the flags and examples.\n", 2},
		{"migrate --data-dir DIR --target-version abc", "Error: wrong target version format, expected \"X.Y\", got \"abc\"\n" +
			"`theseus offline migrate --help` has the arguments, the flags and examples.\n", 2},
	} {
		var out, errOut bytes.Buffer
		args := strings.Fields(strings.ReplaceAll(c.line, "DIR", dir))
		code := Run("theseus offline", args, strings.NewReader(""), &out, &errOut)
		if want := strings.ReplaceAll(c.want, "DIR", dir); errOut.String() != want || code != c.code || out.Len() > 0 {
			t.Errorf("theseus offline %s: exit %d, %q, stdout %q\nwant exit %d, %q", c.line, code, errOut.String(), out.String(), c.code, want)
		}
	}
}

// TestManual checks that there is a page for every command and none for others, and
// that the command lines in the examples can be read.
func TestManual(t *testing.T) {
	tree := func() *cobra.Command {
		tl := &tool{name: "theseus offline"}
		root := tl.root()
		tl.ownName(root)
		return root
	}
	left := map[string]bool{}
	for path := range manual {
		left[path] = true
	}
	visit(tree(), func(cmd *cobra.Command) {
		path := strings.TrimSpace(strings.TrimPrefix(cmd.CommandPath(), "theseus offline"))
		if _, ok := manual[path]; !ok && path != "" && path != "completion" {
			t.Errorf("no manual for %q", path)
		}
		delete(left, path)
		example := strings.ReplaceAll(cmd.Example, "\\\n", " ")
		if !cmd.HasSubCommands() && example == "" && path != "completion" {
			t.Errorf("%q has no example", path)
		}
		for _, line := range strings.Split(example, "\n") {
			rest, ok := strings.CutPrefix(strings.TrimSpace(line), "theseus offline ")
			if !ok {
				continue
			}
			found, args, err := tree().Find(strings.Fields(rest))
			if err == nil {
				err = found.ParseFlags(args)
			}
			if err != nil {
				t.Errorf("%s: example %q: %v", path, line, err)
			}
		}
	})
	for path := range left {
		t.Errorf("a manual for %q, which is no command", path)
	}
}

func TestOwnCompletion(t *testing.T) {
	var out, errOut bytes.Buffer
	code := Run("theseus offline", []string{"completion", "bash"}, strings.NewReader(""), &out, &errOut)
	if code != 0 || !strings.HasPrefix(out.String(), "# bash completion V2 for theseus ") {
		t.Errorf("exit %d, %.60q, %s", code, out.String(), errOut.String())
	}
}
