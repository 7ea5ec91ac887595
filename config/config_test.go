package config

import (
	"os"
	"strings"
	"testing"
	"time"
)

func parse(args, env []string, file string) (*Config, error) {
	c, err := Parse(args, env, func(name string) ([]byte, error) {
		if file == "" {
			return nil, &os.PathError{Op: "open", Path: name, Err: os.ErrNotExist}
		}
		return []byte(file), nil
	})
	if err != nil {
		return nil, err
	}
	return c, c.Validate()
}

// TestRefusals holds the texts of etcd, word for word where the second column
// is a whole sentence.
func TestRefusals(t *testing.T) {
	tests := []struct {
		args, env, file, want string
	}{
		{args: "--nosuch", want: "flag provided but not defined: -nosuch"},
		{args: "--quota-backend-bytes=abc", want: `invalid value "abc" for flag -quota-backend-bytes: parse error`},
		{args: "--max-wals=-1", want: `invalid value "-1" for flag -max-wals: parse error`},
		{args: "foo", want: `"foo" is not a valid flag`},
		{args: "--name s2 --initial-cluster s1=http://127.0.0.1:2380", want: `couldn't find local name "s2" in the initial cluster configuration`},
		{args: "--listen-client-urls http://127.0.0.1:1", want: "--advertise-client-urls is required when --listen-client-urls is set explicitly"},
		{args: "--listen-peer-urls http://host:2380", want: "expected IP in URL for binding (http://host:2380)"},
		{args: "--listen-peer-urls http://a", want: `URL address does not have the form "host:port": http://a`},
		{args: "--listen-peer-urls http://a:1/foo", want: "URL must not contain a path: http://a:1/foo"},
		{args: "--listen-peer-urls ftp://a:1", want: "URL scheme must be http, https, unix, or unixs: ftp://a:1"},
		{args: "--advertise-client-urls http://:2379", want: "unexpected empty host (http://:2379)"},
		{args: "--heartbeat-interval 0", want: "--heartbeat-interval must be >0 (set to 0ms)"},
		{args: "--heartbeat-interval 300", want: "--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[300ms]"},
		{args: "--election-timeout 50001", want: "--election-timeout[50001ms] is too long, and should be set less than 50000ms"},
		{args: "--auto-compaction-mode foo", want: `unknown auto-compaction-mode "foo"`},
		{args: "--auto-compaction-retention abc", want: `error parsing CompactionRetention: time: invalid duration "abc"`},
		{args: "--logger foo", want: `unknown logger option "foo"`},
		{args: "--log-format xml", want: "unknown log format: xml, supported values json, console"},
		{args: "--tls-min-version TLS1.1", want: `unexpected TLS version "TLS1.1" (must be one of: TLS1.2, TLS1.3)`},
		{args: "--feature-gates Foo=true", want: "unrecognized feature gate: Foo"},
		{args: "--feature-gates LeaseCheckpointPersist=true", want: "requires enabling feature gate LeaseCheckpoint"},
		{args: "--initial-cluster-state old", want: `invalid value "old" for flag -initial-cluster-state`},
		{args: "--discovery-srv example.com", want: "--discovery-srv is a flag of etcd that this build of Theseus does not serve"},
		{args: "--enable-distributed-tracing", want: "does not serve it"},
		{args: "--initial-cluster default=http://localhost:2380,b=http://localhost:2380", want: "has duplicate url"},
		{args: "--listen-client-urls https://127.0.0.1:1 --advertise-client-urls https://127.0.0.1:1", want: "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme"},
		{env: "ETCD_QUOTA_BACKEND_BYTES=abc", want: `invalid value "abc" for ETCD_QUOTA_BACKEND_BYTES: parse error`},
		{args: "--name a", env: "ETCD_NAME=b", want: "conflicting environment variable is shadowed by corresponding command-line flag"},
		{env: "ETCD_DISCOVERY_TOKEN=x", want: "ETCD_DISCOVERY_TOKEN is a flag of etcd that this build"},
		{args: "--config-file nofile.yml", want: "open nofile.yml: file does not exist"},
		{args: "--config-file x", file: "grpc-keepalive-interval: 10s", want: "json: cannot unmarshal string into Go struct field configYAML.Config.grpc-keepalive-interval of type time.Duration"},
		{args: "--config-file x", file: "auto-compaction-retention: 5", want: "cannot unmarshal number into Go struct field configYAML.Config.auto-compaction-retention of type string"},
		{args: "--config-file x", file: "a: [", want: "error converting YAML to JSON: yaml:"},
	}
	for _, tc := range tests {
		t.Run(tc.args+tc.env+tc.file, func(t *testing.T) {
			_, err := parse(strings.Fields(tc.args), strings.Fields(tc.env), tc.file)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v\nwant %s", err, tc.want)
			}
		})
	}
}

func TestDashesEnvironmentAndFile(t *testing.T) {
	c, err := parse([]string{"-name", "s1", "--snapshot-count=7", "--pre-vote=false", "--initial-cluster", "s1=http://localhost:2380"}, []string{"ETCD_ELECTION_TIMEOUT=2000", "ETCD_FOO=1", "PATH=x"}, "")
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "s1" || c.SnapshotCount != 7 || c.PreVote || c.ElectionMs != 2000 || c.ResolvedDataDir() != "s1.etcd" {
		t.Fatalf("got %+v", c)
	}
	var unknown bool
	for _, w := range c.Warnings {
		unknown = unknown || w.Message == "unrecognized environment variable"
	}
	if !unknown {
		t.Fatal("ETCD_FOO was passed over without a warning")
	}
	c, err = parse([]string{"--name", "ignored", "--config-file", "x"}, nil, `
name: f1
initial-cluster: f1=http://localhost:2380
grpc-keepalive-interval: 5000000000
log-outputs: [stderr]
client-transport-security: {cert-file: a.pem, key-file: b.pem}
nonsense: 1
`)
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "f1" || c.KeepAliveInterval != 5*time.Second || c.ClientTLS.Cert != "a.pem" {
		t.Fatalf("got %+v", c)
	}
}

func TestRetention(t *testing.T) {
	for _, tc := range []struct {
		mode, text string
		period     time.Duration
		revisions  int64
	}{{"periodic", "1", time.Hour, 0}, {"periodic", "5m", 5 * time.Minute, 0}, {"revision", "1000", 0, 1000}, {"periodic", "0", 0, 0}} {
		c := New()
		c.CompactionMode, c.CompactionRetention = tc.mode, tc.text
		p, r, err := c.Retention()
		if err != nil || p != tc.period || r != tc.revisions {
			t.Errorf("%s %s: %s %d %v", tc.mode, tc.text, p, r, err)
		}
	}
}

func FuzzFile(f *testing.F) {
	f.Add("name: a\nquota-backend-bytes: 5\nclient-transport-security: {auto-tls: true}")
	f.Fuzz(func(t *testing.T, file string) { _, _ = parse([]string{"--config-file", "x"}, nil, file) })
}

// TestGuardFlags: the flags that are ours about birth and loss, by flag, environment
// and file, and what they refuse.
func TestGuardFlags(t *testing.T) {
	c, err := Parse([]string{"--data-dir", "/var/lib/x/", "--on-data-loss", "replace"}, []string{"ETCD_BIRTH_ARCHIVE=dir:/b"}, nil)
	if err != nil || c.OnDataLoss != "replace" || c.BirthArchive != "dir:/b" || c.ResolvedBirthRecord() != "/var/lib/x.birth" || c.Validate() != nil {
		t.Errorf("%+v, %v, %v", c, err, c.Validate())
	}
	file := func(string) ([]byte, error) { return []byte("birth-record: ''\non-data-loss: exit\n"), nil }
	if c, err = Parse([]string{"--config-file", "f"}, nil, file); err != nil || c.OnDataLoss != "exit" || c.ResolvedBirthRecord() != "" {
		t.Errorf("%+v, %v", c, err)
	}
	for _, args := range [][]string{{"--on-data-loss", "ignore"}, {"--birth-archive", "/b"}, {"--birth-archive", "dir:"}} {
		c, err := Parse(args, nil, nil)
		if err == nil {
			err = c.Validate()
		}
		if err == nil || !strings.Contains(err.Error(), args[0][1:]) {
			t.Errorf("%v: %v", args, err)
		}
	}
}
