package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"
)

const (
	sshConnect   = 10 * time.Second // for the connection and the login together
	sshKeepalive = 10 * time.Second // between two questions whether the other side is there
	sshMisses    = 3                // that go unanswered before the connection is given up
)

// defaultKeys are the private keys that are tried when none is named, as ssh does.
var defaultKeys = []string{"id_ed25519", "id_ecdsa", "id_rsa"}

// dialSSH logs in to spec's host. The host's key must be in known_hosts already.
func dialSSH(ctx context.Context, spec Spec) (*ssh.Client, error) {
	login, addr, err := parseLogin(spec.SSH)
	if err != nil {
		return nil, err
	}
	check, algorithms, err := hostKeys(addr)
	if err != nil {
		return nil, err
	}
	auth, done, err := sshAuth(spec)
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := context.WithTimeoutCause(ctx, sshConnect, fmt.Errorf("no answer within %v", sshConnect))
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w: is sshd up there, and host.ssh right?", spec.SSH, err)
	}
	unblock := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	c, channels, requests, err := ssh.NewClientConn(conn, addr, &ssh.ClientConfig{
		User: login, Auth: auth, HostKeyCallback: check, HostKeyAlgorithms: algorithms,
	})
	if !unblock() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return nil, loginError(spec.SSH, addr, err)
	}
	client := ssh.NewClient(c, channels, requests)
	go keepAlive(client)
	return client, nil
}

// parseLogin reads [user@]host[:port]; an IPv6 address with a port has brackets.
func parseLogin(s string) (login, addr string, err error) {
	login, hostport, ok := cutLast(s, "@")
	if !ok {
		login, hostport = "", s
		if u, err := user.Current(); err == nil {
			login = u.Username
		}
	}
	name, port, err := net.SplitHostPort(hostport)
	if err != nil {
		name, port = strings.Trim(hostport, "[]"), "22"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		port = ""
	}
	if login == "" || name == "" || port == "" || strings.ContainsAny(name, "/ \t") || strings.HasPrefix(name, "-") {
		return "", "", fmt.Errorf("host.ssh: %q: write user@host or user@host:port", s)
	}
	return login, net.JoinHostPort(name, port), nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// hostKeys returns what checks a host's key, and the kinds of keys that are known of
// the host at addr: asked for those, it does not answer with a key of another kind,
// which would look like a host that has been replaced.
func hostKeys(addr string) (ssh.HostKeyCallback, []string, error) {
	var files []string
	home, _ := os.UserHomeDir()
	for _, f := range []string{filepath.Join(home, ".ssh", "known_hosts"), "/etc/ssh/ssh_known_hosts"} {
		if _, err := os.Stat(f); err == nil {
			files = append(files, f)
		}
	}
	check, err := knownhosts.New(files...)
	if err != nil {
		return nil, nil, fmt.Errorf("read the known hosts: %w: mend or remove the line", err)
	}
	var keyErr *knownhosts.KeyError
	var algorithms []string
	if errors.As(check(addr, &net.TCPAddr{IP: net.IPv4zero}, noKey{}), &keyErr) {
		for _, known := range keyErr.Want {
			of := []string{known.Key.Type()}
			if of[0] == ssh.KeyAlgoRSA {
				of = []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
			}
			for _, a := range of {
				if !slices.Contains(algorithms, a) {
					algorithms = append(algorithms, a)
				}
			}
		}
	}
	return check, algorithms, nil
}

// noKey is a key that no host has.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return []byte("none") }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("not a key") }

// sshAuth returns how to log in: with the key that is named, or with what the agent
// and the default files have. done ends the connection to the agent.
func sshAuth(spec Spec) (_ []ssh.AuthMethod, done func(), err error) {
	done = func() {}
	var signers []ssh.Signer
	var refused error
	if spec.SSHKey != "" {
		signer, err := readKey(spec.SSHKey)
		if err == nil {
			return []ssh.AuthMethod{ssh.PublicKeys(signer)}, done, nil
		}
		var locked *ssh.PassphraseMissingError
		if !errors.As(err, &locked) {
			return nil, nil, err
		}
		refused = err // the agent may hold it unlocked
	}
	if sock := os.Getenv("SSH_AUTH_SOCK"); sock != "" {
		if conn, err := net.Dial("unix", sock); err == nil {
			done = func() { _ = conn.Close() }
			held, err := agent.NewClient(conn).Signers()
			if err == nil {
				signers = append(signers, held...)
			}
		}
	}
	if spec.SSHKey == "" {
		home, _ := os.UserHomeDir()
		for _, name := range defaultKeys {
			if signer, err := readKey(filepath.Join(home, ".ssh", name)); err == nil {
				signers = append(signers, signer)
			} else if !errors.Is(err, os.ErrNotExist) {
				refused = err
			}
		}
	}
	if len(signers) == 0 {
		done()
		if refused != nil {
			return nil, nil, refused
		}
		return nil, nil, errors.New("log in by ssh: no key: name one as host.sshKey, or run ssh-add")
	}
	return []ssh.AuthMethod{ssh.PublicKeys(signers...)}, done, nil
}

func readKey(file string) (ssh.Signer, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the ssh key: %w: name a private key as host.sshKey", err)
	}
	signer, err := ssh.ParsePrivateKey(raw)
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		return nil, fmt.Errorf("read the ssh key %s: %w: run ssh-add %s first", file, err, file)
	case err != nil:
		return nil, fmt.Errorf("read the ssh key %s: %w: name a private key", file, err)
	}
	return signer, nil
}

// loginError says what to do about a login that failed.
func loginError(target, addr string, err error) error {
	var key *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	name, port, _ := net.SplitHostPort(addr)
	switch {
	case errors.As(err, &revoked):
		return fmt.Errorf("log in to %s: its host key is revoked in known_hosts: give the host a new key", target)
	case errors.As(err, &key) && len(key.Want) == 0:
		return fmt.Errorf("log in to %s: its host key is not known: compare it with the one on its console, and add it: ssh-keyscan -p %s %s >> ~/.ssh/known_hosts", target, port, name)
	case errors.As(err, &key):
		return fmt.Errorf("log in to %s: its host key is not the one of %s:%d: find out why before you remove that line", target, key.Want[0].Filename, key.Want[0].Line)
	case strings.Contains(err.Error(), "unable to authenticate"):
		return fmt.Errorf("log in to %s: it takes none of the keys: name one as host.sshKey, or add the public key to authorized_keys there", target)
	}
	return fmt.Errorf("log in to %s: %w: try `ssh %s true`", target, err, target)
}

// keepAlive closes a connection whose other side no longer answers, so that nothing
// waits for it for as long as TCP would.
func keepAlive(client *ssh.Client) {
	gone := make(chan struct{})
	go func() {
		_ = client.Wait()
		close(gone)
	}()
	answered := make(chan struct{}, sshMisses+1)
	tick := time.NewTicker(sshKeepalive)
	defer tick.Stop()
	for missed := 0; missed < sshMisses; {
		select {
		case <-gone:
			return
		case <-answered:
			missed = 0
		case <-tick.C:
			missed++
			go func() {
				if _, _, err := client.SendRequest("keepalive@openssh.com", true, nil); err == nil {
					answered <- struct{}{}
				}
			}()
		}
	}
	_ = client.Close()
}
