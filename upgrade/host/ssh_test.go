package host

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"
)

// server is a real sshd on loopback, of the user that runs the test.
type server struct {
	dir, target string
	known       string // the line of its host key
	cmd         *exec.Cmd
}

// startSSHD starts one that takes the key dir/id and nothing else.
func startSSHD(t *testing.T) *server {
	t.Helper()
	sshd, err := exec.LookPath("/usr/sbin/sshd")
	if err != nil {
		t.Skip("no /usr/sbin/sshd on this machine (openssh-server): ssh is not tried here")
	}
	me, err := user.Current()
	must(t, err)
	s := &server{dir: t.TempDir()}
	public := newKey(t, filepath.Join(s.dir, "id"))
	hostPublic := newKey(t, filepath.Join(s.dir, "host"))
	writeTest(t, filepath.Join(s.dir, "authorized"), public+"\n")
	url := freeURL(t)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(url, "http://"))
	must(t, err)
	s.target = me.Username + "@127.0.0.1:" + port
	if me.Uid == "0" {
		must(t, os.MkdirAll("/run/sshd", 0o755)) // where an sshd that root starts puts itself
	}
	writeTest(t, filepath.Join(s.dir, "config"), fmt.Sprintf("ListenAddress 127.0.0.1:%s\nHostKey %s\nAuthorizedKeysFile %s\nPidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n",
		port, filepath.Join(s.dir, "host"), filepath.Join(s.dir, "authorized")))
	s.cmd = exec.Command(sshd, "-D", "-e", "-f", filepath.Join(s.dir, "config"))
	var said bytes.Buffer
	s.cmd.Stderr = &said
	must(t, s.cmd.Start())
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	waitFor(t, "sshd", func() bool {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(hostPublic))
	must(t, err)
	s.known = knownhosts.Line([]string{"[127.0.0.1]:" + port}, key) + "\n"
	home := filepath.Join(s.dir, "home")
	must(t, os.MkdirAll(filepath.Join(home, ".ssh"), 0o700))
	t.Setenv("HOME", home)
	t.Setenv("SSH_AUTH_SOCK", "")
	s.knows(t, s.known)
	return s
}

// knows makes lines the known hosts.
func (s *server) knows(t *testing.T, lines string) {
	t.Helper()
	writeTest(t, filepath.Join(s.dir, "home", ".ssh", "known_hosts"), lines)
}

func (s *server) shell(t *testing.T) *shell {
	t.Helper()
	sh := newShell(Spec{SSH: s.target, SSHKey: filepath.Join(s.dir, "id")})
	t.Cleanup(func() { must(t, sh.close()) })
	return sh
}

// TestShell runs the same commands here and over ssh.
func TestShell(t *testing.T) {
	t.Run("here", func(t *testing.T) { tryShell(t, newShell(Spec{})) })
	t.Run("ssh", func(t *testing.T) { tryShell(t, startSSHD(t).shell(t)) })
}

func tryShell(t *testing.T, s *shell) {
	t.Helper()
	ctx := t.Context()
	words := []string{"plain", "", "a b", `'"$HOME"'`, "new\nline", `back\slash`, "!x", "*", "~", "ünï", "-n", "$(id)", "`id`", ";true", "#"}
	out, err := s.run(ctx, append([]string{"printf", `%s\0`}, words...)...)
	if err != nil || out != strings.Join(words, "\x00")+"\x00" {
		t.Fatalf("words: %q, %v", out, err)
	}
	var exit *exitError
	if _, err := s.script(ctx, "echo oh dear >&2; exit 7"); !errors.As(err, &exit) || exit.code != 7 || !strings.Contains(err.Error(), "oh dear") {
		t.Fatalf("exit: %v", err)
	}
	file := filepath.Join(t.TempDir(), "a folder", "it's a file")
	if _, err := s.readFile(ctx, file); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("read of no file: %v", err)
	}
	big := make([]byte, 3<<20)
	_, _ = rand.Read(big)
	for _, content := range [][]byte{nil, []byte("x\n"), big} {
		must(t, s.writeFile(ctx, file, content))
		if got, err := s.readFile(ctx, file); err != nil || !bytes.Equal(got, content) {
			t.Fatalf("read %d bytes: %v, want %d", len(got), err, len(content))
		}
	}
	must(t, os.Chmod(file, 0o640))
	must(t, s.writeFile(ctx, file, []byte("y")))
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o640 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	// Input that ends early, as when a connection does, leaves the old content.
	if _, err := s.feed(ctx, []byte("z"), "sh", "-c", writeScript, "sh", file, "2"); err == nil {
		t.Fatal("half a file was taken for one")
	}
	if got, err := s.readFile(ctx, file); err != nil || string(got) != "y" {
		t.Fatalf("after half a write: %q, %v", got, err)
	}
	if s.freeBytes(ctx, filepath.Join(file, "not", "there")) == 0 {
		t.Fatal("no free bytes")
	}
	must(t, s.removeFile(ctx, file))
	must(t, s.removeFile(ctx, file))
	if there, err := s.exists(ctx, file); err != nil || there {
		t.Fatalf("exists: %v, %v", there, err)
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if _, err := s.run(short, "sleep", "60"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a command that takes too long: %v", err)
	}
	if _, err := s.run(ctx, "true"); err != nil {
		t.Fatalf("after it: %v", err)
	}
}

func TestSSHLogin(t *testing.T) {
	s := startSSHD(t)
	key := filepath.Join(s.dir, "id")
	other := newKey(t, filepath.Join(s.dir, "other"))
	_, port, _ := strings.Cut(s.target, ":")
	stranger := "[127.0.0.1]:" + port + " " + other + "\n"
	for _, c := range []struct{ name, known, key, want string }{
		{"good", s.known, key, ""},
		{"unknown host", "", key, "ssh-keyscan -p " + port + " 127.0.0.1 >> ~/.ssh/known_hosts"},
		{"another host key", stranger, key, "not the one of"},
		{"revoked", s.known + "@revoked " + s.known, key, "revoked"},
		{"another key", s.known, filepath.Join(s.dir, "other"), "none of the keys"},
		{"no key", s.known, "", "ssh-add"},
		{"no such key", s.known, filepath.Join(s.dir, "nowhere"), "host.sshKey"},
	} {
		s.knows(t, c.known)
		client, err := dialSSH(t.Context(), Spec{SSH: s.target, SSHKey: c.key})
		if err == nil {
			_ = client.Close()
		}
		if (c.want == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), c.want)) || (err != nil && strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	s.knows(t, s.known)
	defaults := filepath.Join(s.dir, "home", ".ssh", "id_ed25519")
	must(t, os.Link(key, defaults))
	tryLogin(t, s, "the default key")
	must(t, os.Remove(defaults))
	t.Setenv("SSH_AUTH_SOCK", startAgent(t, key))
	tryLogin(t, s, "the agent")
}

func tryLogin(t *testing.T, s *server, by string) {
	t.Helper()
	client, err := dialSSH(t.Context(), Spec{SSH: s.target})
	if err != nil {
		t.Fatalf("by %s: %v", by, err)
	}
	must(t, client.Close())
}

// startAgent serves the private key of file and returns its socket.
func startAgent(t *testing.T, file string) string {
	t.Helper()
	raw, err := os.ReadFile(file)
	must(t, err)
	private, err := ssh.ParseRawPrivateKey(raw)
	must(t, err)
	ring := agent.NewKeyring()
	must(t, ring.Add(agent.AddedKey{PrivateKey: private}))
	sock := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", sock)
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(ring, conn) }()
		}
	}()
	return sock
}

// TestSSHAgain loses the connection between two commands.
func TestSSHAgain(t *testing.T) {
	s := startSSHD(t).shell(t)
	for range 2 {
		if out, err := s.run(t.Context(), "echo", "here"); err != nil || out != "here\n" {
			t.Fatalf("%q, %v", out, err)
		}
		s.mu.Lock()
		_ = s.client.Conn.Close()
		s.mu.Unlock()
	}
}

// TestSSHSilent dials a host that accepts and says nothing.
func TestSSHSilent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = l.Close() }()
	key := filepath.Join(t.TempDir(), "id")
	newKey(t, key)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := dialSSH(ctx, Spec{SSH: "root@" + l.Addr().String(), SSHKey: key}); err == nil || ctx.Err() == nil {
		t.Fatalf("a host that says nothing: %v", err)
	}
}

func TestParseLogin(t *testing.T) {
	me, err := user.Current()
	must(t, err)
	for in, want := range map[string]string{
		"root@h": "root h:22", "h": me.Username + " h:22", "a@b@h:2222": "a@b h:2222", "u@[::1]:22": "u [::1]:22", "u@::1": "u [::1]:22",
		"": "", "@h": "", "u@": "", "u@-oProxyCommand=x": "", "ssh://h": "",
	} {
		login, addr, err := parseLogin(in)
		if got := login + " " + addr; (err != nil) != (want == "") || (err == nil && got != want) {
			t.Errorf("%q: %q, %v, want %q", in, got, err, want)
		}
	}
}
