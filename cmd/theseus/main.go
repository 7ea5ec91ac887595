// Command theseus is the one binary: the server, the command line, the offline
// tools and the benchmark. Called by the name etcd, etcdctl or etcdutl it is that
// tool, with its flags, environment and output.
package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"theseus/backup"
	"theseus/bench"
	"theseus/ctl"
	"theseus/embed"
	"theseus/offline"
	"theseus/upgrade"
	"theseus/version"
)

func main() {
	os.Exit(run(os.Args))
}

// run picks the personality by the program's name, then by the first word.
func run(args []string) int {
	switch filepath.Base(args[0]) {
	case "etcd":
		return serve(args[1:])
	case "etcdctl":
		return control(args)
	case "etcdutl":
		return offline.Main(args[1:], os.Stdin, os.Stdout, os.Stderr)
	}
	if len(args) < 2 {
		_, _ = io.WriteString(os.Stderr, usage)
		return 2
	}
	switch word, rest := args[1], args[2:]; word {
	case "serve":
		return serve(rest)
	case "ctl":
		return control(append([]string{"theseus ctl"}, rest...))
	case "offline":
		return offline.Run("theseus offline", rest, os.Stdin, os.Stdout, os.Stderr)
	case "upgrade":
		return upgrade.Main(rest, os.Stdout, os.Stderr)
	case "backup":
		return backup.Main(rest, os.Stdout, os.Stderr)
	case "bench":
		return bench.Main(rest, os.Stdout, os.Stderr)
	case "version", "--version":
		printVersion(os.Stdout)
		return 0
	case "__complete", "__completeNoDesc":
		return complete(word, rest)
	case "help", "-h", "--help":
		_, _ = io.WriteString(os.Stdout, usage)
		return 0
	default:
		fmt.Fprintf(os.Stderr, "theseus: %q is not a command\nTry 'theseus help'.\n", word)
		return 2
	}
}

// control runs the online command line; args[0] is the name it goes by.
func control(args []string) int {
	files := "theseus offline"
	if filepath.Base(args[0]) == "etcdctl" {
		files = "etcdutl"
	}
	return ctl.Main(args, ctl.Options{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Offline: func(args []string) int {
		return offline.Run(files, args, os.Stdin, os.Stdout, os.Stderr)
	}})
}

const usage = `NAME
  theseus - a key-value store that speaks etcd

USAGE
  theseus serve [flags]        start a member; every flag is etcd's
  theseus ctl COMMAND          talk to a running cluster, as etcdctl does
  theseus offline COMMAND      work on a stopped data directory or a snapshot, as etcdutl does
  theseus upgrade COMMAND      move a cluster to another version: review, check, plan, rehearse, apply, rollback
  theseus backup COMMAND       full backups of a running cluster, each proven by restoring it
  theseus bench [flags]        measure this server beside real etcd
  theseus version              show the versions

  Called by the name etcd, etcdctl or etcdutl (a symbolic link), it is that tool.

EXAMPLES
  theseus serve --data-dir data
  theseus ctl put greeting hello
  theseus ctl get greeting
  theseus ctl snapshot save backup.db
  theseus offline snapshot status backup.db -w table

  'theseus serve --help' and 'theseus ctl help' say more.
`

func printVersion(w io.Writer) {
	_, _ = fmt.Fprintf(w, "theseus Version: %s\netcd Version: %s\nGo Version: %s\nGo OS/Arch: %s/%s\n",
		embed.Version, version.Current, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
