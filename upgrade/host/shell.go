package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// maxOutput is how much of a command's output is kept.
const maxOutput = 16 << 20

// shell runs commands and keeps files on a member's host: on this machine, or over
// ssh on another. Both go through the same commands, so that what is tried here holds
// there too.
type shell struct {
	spec   Spec
	prefix []string // stands before every command: sudo

	mu     sync.Mutex
	client *ssh.Client // nil until the first command
}

func newShell(spec Spec) *shell {
	s := &shell{spec: spec}
	if spec.Sudo {
		s.prefix = []string{"sudo", "-n", "--"}
	}
	return s
}

// exitError is a command that ran and ended with a code other than 0.
type exitError struct {
	command string
	code    int
	said    string
}

func (e *exitError) Error() string {
	return fmt.Sprintf("%s ended with %d: %s", e.command, e.code, clip(e.said))
}

// run runs argv and returns what it wrote to its standard output.
func (s *shell) run(ctx context.Context, argv ...string) (string, error) {
	return s.feed(ctx, nil, argv...)
}

// script runs a line of shell with arguments $1, $2 and so on.
func (s *shell) script(ctx context.Context, line string, args ...string) (string, error) {
	return s.run(ctx, append([]string{"sh", "-c", line, "sh"}, args...)...)
}

// feed runs argv with stdin.
func (s *shell) feed(ctx context.Context, stdin []byte, argv ...string) (string, error) {
	name := argv[0]
	argv = append(slices.Clone(s.prefix), argv...)
	out, said := &limited{left: maxOutput}, &limited{left: maxVersion}
	var code int
	var err error
	if s.spec.SSH == "" {
		code, err = runHere(ctx, argv, stdin, out, said)
	} else {
		code, err = s.runThere(ctx, argv, stdin, out, said)
	}
	switch {
	case err != nil:
		return "", fmt.Errorf("run %s%s: %w", name, s.where(), err)
	case code != 0:
		text := strings.TrimSpace(said.String())
		if text == "" {
			text = strings.TrimSpace(out.String())
		}
		return out.String(), &exitError{command: name + s.where(), code: code, said: strings.ReplaceAll(text, "\n", " ")}
	}
	return out.String(), nil
}

// where names the host in an error.
func (s *shell) where() string {
	if s.spec.SSH == "" {
		return ""
	}
	return " on " + s.spec.SSH
}

func runHere(ctx context.Context, argv []string, stdin []byte, out, said io.Writer) (int, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), out, said
	cmd.Dir, cmd.WaitDelay = "/", time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}

func (s *shell) runThere(ctx context.Context, argv []string, stdin []byte, out, said io.Writer) (int, error) {
	session, err := s.session(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = session.Close() }()
	session.Stdin, session.Stdout, session.Stderr = bytes.NewReader(stdin), out, said
	ended := make(chan error, 1)
	go func() { ended <- session.Run(quoteArgv(argv)) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		// The output is still the session's until Run has returned.
		_ = session.Close()
		select {
		case <-ended:
		case <-time.After(time.Second):
			s.drop() // the connection hangs: the next command makes a new one
			<-ended
		}
		return 0, context.Cause(ctx)
	}
	var exit *ssh.ExitError
	if errors.As(err, &exit) {
		if exit.Signal() != "" {
			return 0, fmt.Errorf("it was ended by SIG%s", exit.Signal())
		}
		return exit.ExitStatus(), nil
	}
	if err != nil {
		s.drop()
		return 0, fmt.Errorf("the connection ended before the command did: %w", err)
	}
	return 0, nil
}

// session opens a session, on a new connection if there is none or the one that was
// there has ended. Nothing has run yet when this fails.
func (s *shell) session(ctx context.Context) (*ssh.Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		if session, err := s.client.NewSession(); err == nil {
			return session, nil
		}
		_ = s.client.Close()
		s.client = nil
	}
	client, err := dialSSH(ctx, s.spec)
	if err != nil {
		return nil, err
	}
	session, err := client.NewSession()
	if err != nil {
		_ = client.Close()
		return nil, fmt.Errorf("open a session: %w", err)
	}
	s.client = client
	return session, nil
}

func (s *shell) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		_ = s.client.Close()
		s.client = nil
	}
}

// close ends the connection.
func (s *shell) close() error {
	s.drop()
	return nil
}

// Codes of the scripts below, which no command of theirs ends with.
const codeMissing = 44

// readFile returns a file's content; errors.Is knows os.ErrNotExist.
func (s *shell) readFile(ctx context.Context, file string) ([]byte, error) {
	out, err := s.script(ctx, `[ -e "$1" ] || exit `+strconv.Itoa(codeMissing)+`; exec cat -- "$1"`, file)
	var exit *exitError
	if errors.As(err, &exit) && exit.code == codeMissing {
		return nil, fmt.Errorf("read %s%s: %w", file, s.where(), os.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	if len(out) >= maxOutput {
		return nil, fmt.Errorf("read %s: it has more than %d bytes", file, maxOutput)
	}
	return []byte(out), nil
}

// writeScript leaves $1 with the old content or the new one. The length is compared,
// because a connection that ends early looks like the end of the input. The new file
// has a dot before its name, which systemd and the kubelet pass over, and the old
// one's mode and owner.
const writeScript = `d=$(dirname -- "$1"); t="$d/.$(basename -- "$1").new"; umask 022; mkdir -p -- "$d" && rm -f -- "$t" && ` +
	`{ [ ! -e "$1" ] || cp -p -- "$1" "$t"; } && cat >"$t" && [ "$(wc -c <"$t")" -eq "$2" ] && ` +
	`{ sync "$t" 2>/dev/null || sync; } && mv -f -- "$t" "$1" && { sync "$d" 2>/dev/null || sync; }`

// writeFile makes the folders that lack and replaces file as a whole.
func (s *shell) writeFile(ctx context.Context, file string, content []byte) error {
	if _, err := s.feed(ctx, content, "sh", "-c", writeScript, "sh", file, strconv.Itoa(len(content))); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

// removeFile removes a file that may be gone already.
func (s *shell) removeFile(ctx context.Context, file string) error {
	if _, err := s.script(ctx, `rm -f -- "$1" && { sync "$2" 2>/dev/null || sync; }`, file, path.Dir(file)); err != nil {
		return fmt.Errorf("remove %s: %w", file, err)
	}
	return nil
}

// exists tells whether there is such a file.
func (s *shell) exists(ctx context.Context, file string) (bool, error) {
	out, err := s.script(ctx, `if [ -e "$1" ]; then echo yes; else echo no; fi`, file)
	return strings.TrimSpace(out) == "yes", err
}

// freeBytes returns what is free for a member on the file system of dir, or of the
// nearest directory above it that exists; 0 if that cannot be told.
func (s *shell) freeBytes(ctx context.Context, dir string) int64 {
	out, err := s.script(ctx, `d=$1; while [ ! -e "$d" ] && [ "$d" != / ]; do d=$(dirname -- "$d"); done; df -Pk -- "$d"`, dir)
	lines := lastLines(out, 1)
	if err != nil || len(lines) == 0 {
		return 0
	}
	fields := strings.Fields(lines[0])
	if len(fields) < 6 {
		return 0
	}
	kib, err := strconv.ParseInt(fields[3], 10, 64)
	if err != nil {
		return 0
	}
	return kib << 10
}

// quoteArgv writes argv so that a shell reads the same words.
func quoteArgv(argv []string) string {
	words := make([]string, len(argv))
	for i, a := range argv {
		words[i] = quoteWord(a)
	}
	return strings.Join(words, " ")
}

func quoteWord(s string) string {
	plain := s != "" && strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_-./:@%+,", r)
	}) < 0
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
