package offline

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"theseus/printer"
)

// Exit codes of etcdutl.
const (
	exitFailed     = 1   // also cobra's complaints about flags and arguments
	exitBadFeature = 4   // a result that the format cannot show
	exitBadArgs    = 128 // arguments that the command itself refuses
)

// exitError is an error with the exit code that etcdutl gives it.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }

func (e *exitError) Unwrap() error { return e.err }

// badArgs refuses arguments in etcdutl's words.
func badArgs(format string, args ...any) error {
	return &exitError{exitBadArgs, fmt.Errorf(format, args...)}
}

// tool is what the commands share: the global flags and the streams.
type tool struct {
	name           string
	ran            bool // the command line made sense
	stdin          io.Reader
	stdout, stderr io.Writer
	format         string
	timeout        time.Duration // for the lock of the db file; 0 is for ever
}

// Main runs one command line, without the program's name, as etcdutl does, and
// returns the exit code.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	return Run(utlName, args, stdin, stdout, stderr)
}

// Run is Main under the name given, as in "theseus offline". Under any name but
// etcdutl the commands are the same, but help is a manual with examples, an error is
// followed by what to do next, and the exit code is 1 for what failed and 2 for a
// command line that makes no sense.
func Run(name string, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	t := &tool{name: name, stdin: stdin, stdout: stdout, stderr: stderr}
	root := t.root()
	if name != utlName {
		t.ownName(root)
	}
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stderr) // complaints with the usage text; help and results name stdout themselves
	if len(args) > 0 && strings.HasPrefix(args[0], cobra.ShellCompRequestCmd) {
		root.SetOut(stdout) // what a shell's completion script asks for
	}
	root.SetErr(stderr)
	cmd, err := root.ExecuteC()
	if err == nil {
		return 0
	}
	if name != utlName {
		return t.ownError(cmd.CommandPath(), err, !t.ran)
	}
	_, _ = fmt.Fprintln(stderr, "Error:", err)
	if coded := new(exitError); errors.As(err, &coded) {
		return coded.code
	}
	return exitFailed
}

// root is the command tree. cobra itself prints only what is wrong with a command
// line; run hides its errors from it.
func (t *tool) root() *cobra.Command {
	root := &cobra.Command{
		Use:        "etcdutl",
		SuggestFor: []string{"etcdutl"},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) { _, _ = io.WriteString(t.stdout, cmd.UsageString()) })
	root.PersistentFlags().StringVarP(&t.format, "write-out", "w", "simple",
		"set the output format (fields, json, protobuf, simple, table)")
	_ = root.RegisterFlagCompletionFunc("write-out", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return printer.Formats, cobra.ShellCompDirectiveDefault
	}) // fails for unknown flags only
	root.PersistentFlags().DurationVar(&t.timeout, "timeout", 10*time.Second,
		"time to wait to obtain a file lock on db file, 0 to block indefinitely")
	root.AddCommand(t.versionCommand(), t.completionCommand(root), t.snapshotCommand(), t.hashKVCommand(),
		t.defragCommand(), t.migrateCommand(), t.verifyCommand())
	return root
}

// run makes a cobra function of one whose errors are not about the command line:
// they come without the usage text.
func run(fn func(args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := fn(args)
		if err != nil {
			cmd.Root().SilenceErrors, cmd.Root().SilenceUsage = true, true
		}
		return err
	}
}

// printer is that of the format asked for. etcdutl makes it once it has seen that the
// file is there, and before it reads it.
func (t *tool) printer() (*printer.Printer, error) {
	p, err := printer.New(t.format, printer.Options{Out: t.stdout})
	if err != nil {
		return nil, &exitError{exitBadFeature, err}
	}
	return p, nil
}

// show writes a result.
func show(p *printer.Printer, r printer.Result) error {
	err := p.Print(r)
	if refused := new(printer.UnsupportedError); errors.As(err, &refused) {
		return &exitError{exitBadFeature, err}
	}
	return err
}
