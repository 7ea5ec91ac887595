package backup

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

const usage = `NAME
  theseus backup - full backups of a running cluster, each proven by restoring it

USAGE
  theseus backup take --archive dir:PATH --cluster NAME --endpoints URL[,URL...] [flags]
  theseus backup list --archive dir:PATH [-o text|json]
  theseus backup verify --archive dir:PATH [--id ID] [-o text|json]

  take asks the first endpoint for its image, checks the sum at its end, restores it into
  a scratch store and compares the hash of that with what every endpoint says of itself
  at the same revision. Only then it is a backup: ID.db with the manifest ID.json beside
  it. What differs is refused and kept as ID.db.unproven. Nothing in the archive is ever
  overwritten or removed. It works on etcd 3.1 to 3.7 and on Theseus.

  verify restores a backup again, the newest one unless --id names another.
  A backup becomes a cluster by 'theseus offline snapshot restore PATH/ID.db'.

FLAGS
  --archive dir:PATH      where backups are kept
  --cluster NAME          the cluster's name in the manifests
  --endpoints URL,...     client URLs; name every member, so that all are compared
  --cacert, --cert, --key FILE
                          of the client, for https
  --user NAME             a user with the role root, if the cluster has logins
  --password-file FILE    its password
  --id ID                 of one backup
  -o FORMAT               text (default) or json

EXIT CODES
  0 good   1 failed   2 usage

EXAMPLE
  theseus backup take --archive dir:/var/backups/etcd --cluster prod \
    --endpoints https://10.0.0.2:2379,https://10.0.0.1:2379,https://10.0.0.3:2379 --cacert ca.crt
  theseus backup verify --archive dir:/var/backups/etcd
`

// command is one command line.
type command struct {
	archive, cluster, endpoints string
	cacert, cert, key           string
	user, passwordFile          string
	id, format                  string
	stdout, stderr              io.Writer
}

// Main runs one verb and returns the exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	verbs := map[string]func(*command, context.Context) error{"take": (*command).take, "list": (*command).list, "verify": (*command).verify}
	if len(args) > 0 && slices.Contains([]string{"help", "-h", "--help"}, args[0]) {
		_, _ = io.WriteString(stdout, usage)
		return 0
	}
	if len(args) == 0 || verbs[args[0]] == nil {
		_, _ = io.WriteString(stderr, usage)
		return 2
	}
	c := &command{stdout: stdout, stderr: stderr}
	switch err := c.parse(args[0], args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		_, _ = io.WriteString(stdout, usage)
		return 0
	case err != nil:
		_, _ = fmt.Fprintf(stderr, "theseus backup %s: %v\nTry 'theseus backup --help'.\n", args[0], err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := verbs[args[0]](c, ctx); err != nil {
		_, _ = fmt.Fprintf(stderr, "theseus backup %s: %v\n", args[0], err)
		return 1
	}
	return 0
}

// parse reads the flags, and says what is missing for the verb.
func (c *command) parse(verb string, args []string) error {
	fs := flag.NewFlagSet(verb, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	for name, to := range map[string]*string{
		"archive": &c.archive, "cluster": &c.cluster, "endpoints": &c.endpoints, "cacert": &c.cacert, "cert": &c.cert,
		"key": &c.key, "user": &c.user, "password-file": &c.passwordFile, "id": &c.id,
	} {
		fs.StringVar(to, name, "", "")
	}
	fs.StringVar(&c.format, "o", "text", "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	switch {
	case fs.NArg() > 0:
		return fmt.Errorf("%q: there is nothing to say beside the flags", fs.Arg(0))
	case c.format != "text" && c.format != "json":
		return fmt.Errorf("-o %q: text or json", c.format)
	case c.archive == "":
		return errors.New("--archive is missing: write dir: and a path")
	case verb == "take" && (c.cluster == "" || c.endpoints == ""):
		return errors.New("--cluster and --endpoints are needed")
	case (c.cert == "") != (c.key == ""):
		return errors.New("--cert and --key go together")
	case (c.user == "") != (c.passwordFile == ""):
		return errors.New("--user and --password-file go together")
	}
	return nil
}

func (c *command) take(ctx context.Context) error {
	endpoints := strings.Split(c.endpoints, ",")
	cli, err := c.client(endpoints[0])
	if err != nil {
		return err
	}
	defer func() { _ = cli.Close() }()
	stage := Stage("")
	m, err := Take(ctx, Options{
		Archive: c.archive, Cluster: c.cluster, Source: cli, Endpoint: endpoints[0], Witnesses: endpoints, Tool: Tool(),
		Progress: func(p Progress) {
			if p.Stage != stage && p.Stage != Kept && c.format == "text" {
				_, _ = fmt.Fprintf(c.stderr, "%s (%s)\n", p.Stage, sizeText(max(p.Done, p.Total)))
			}
			stage = p.Stage
		},
	})
	if err != nil {
		return err
	}
	return c.show(&m)
}

// client connects to one member.
func (c *command) client(endpoint string) (*clientv3.Client, error) {
	cfg := clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: askTimeout, Logger: zap.NewNop(), Username: c.user}
	if c.passwordFile != "" {
		text, err := os.ReadFile(c.passwordFile)
		if err != nil {
			return nil, fmt.Errorf("read --password-file: %w", err)
		}
		cfg.Password = strings.TrimRight(string(text), "\r\n")
	}
	if strings.HasPrefix(endpoint, "https://") {
		cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if cfg.TLS != nil && c.cacert != "" {
		pem, err := os.ReadFile(c.cacert)
		if err != nil {
			return nil, fmt.Errorf("read --cacert: %w", err)
		}
		cfg.TLS.RootCAs = x509.NewCertPool()
		if !cfg.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read --cacert: %s holds no certificate in PEM form", c.cacert)
		}
	}
	if cfg.TLS != nil && c.cert != "" {
		pair, err := tls.LoadX509KeyPair(c.cert, c.key)
		if err != nil {
			return nil, fmt.Errorf("load --cert and --key: %w", err)
		}
		cfg.TLS.Certificates = []tls.Certificate{pair}
	}
	return clientv3.New(cfg)
}

func (c *command) list(context.Context) error {
	all, bad := List(c.archive)
	if c.format == "json" {
		if all == nil {
			all = []Manifest{}
		}
		return errors.Join(encode(c.stdout, all), bad)
	}
	w := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "ID\tTAKEN\tREVISION\tKEYS\tSIZE\tVERSION\tPROVEN BY")
	for i := range all {
		m := &all[i]
		_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\t%d of %d\n", m.ID, m.Taken.Format(time.RFC3339), m.Revision, m.Keys, sizeText(m.Size), m.Versions.Server, m.Proven(), len(m.Witnesses))
	}
	return errors.Join(w.Flush(), bad)
}

func (c *command) verify(ctx context.Context) error {
	if c.id == "" {
		all, err := List(c.archive)
		if len(all) == 0 {
			return errors.Join(fmt.Errorf("there is no backup in %s", c.archive), err)
		}
		c.id = all[len(all)-1].ID
	}
	m, err := Verify(ctx, c.archive, c.id)
	if err != nil {
		return err
	}
	return c.show(&m)
}

func (c *command) show(m *Manifest) error {
	if c.format == "json" {
		return encode(c.stdout, m)
	}
	_, err := fmt.Fprintln(c.stdout, m)
	return err
}

func encode(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
