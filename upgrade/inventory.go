package upgrade

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"sigs.k8s.io/yaml"

	"theseus/upgrade/host"
	"theseus/upgrade/plan"
	"theseus/version"
)

// Inventory is the one file that every verb reads. Keys that it does not know are errors.
type Inventory struct {
	Cluster string            `json:"cluster"`
	Members []InventoryMember `json:"members"`
	TLS     TLS               `json:"tls"`
	Auth    Auth              `json:"auth"`
	Backup  struct {
		Archive string `json:"archive"` // dir:/path
	} `json:"backup"`
	Target Program   `json:"target"`
	Hops   []Program `json:"hops,omitempty"` // of the versions on the way, when the target needs them
	Limits struct {
		Stall   string `json:"stall,omitempty"`
		Catchup string `json:"catchup,omitempty"`
		Stop    string `json:"stop,omitempty"`
	} `json:"limits"`
	Kubernetes struct {
		APIServers []string `json:"apiservers,omitempty"` // versions, or https URLs whose /version is asked
	} `json:"kubernetes"`
	State string `json:"state,omitempty"` // directory of plan, journal and summary; default: upgrade-<cluster> beside the inventory
}

// InventoryMember is one member: how it is reached and how it is run.
type InventoryMember struct {
	Name     string    `json:"name"`
	Endpoint string    `json:"endpoint"`
	Host     host.Spec `json:"host"`
}

// TLS are the client's files.
type TLS struct {
	CACert     string `json:"cacert,omitempty"`
	Cert       string `json:"cert,omitempty"`
	Key        string `json:"key,omitempty"`
	SkipVerify bool   `json:"insecureSkipVerify,omitempty"`
}

// Auth is a login, if the cluster wants one. The password is read from a file.
type Auth struct {
	User         string `json:"user,omitempty"`
	PasswordFile string `json:"passwordFile,omitempty"`
}

// Program is a binary or an image and, where the program cannot be asked for it, its
// version. Where some members run binaries and others images, it is both.
type Program struct {
	Binary  string `json:"binary,omitempty"`
	Image   string `json:"image,omitempty"`
	Version string `json:"version,omitempty"`
}

// defaultLimits are what the inventory leaves out.
var defaultLimits = plan.Limits{Stall: 2 * time.Second, Catchup: 10 * time.Minute, Stop: time.Minute}

// LoadInventory reads and checks an inventory. Relative paths in it become absolute,
// from the folder of the file, and the default of State is filled in.
func LoadInventory(path string) (*Inventory, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the inventory: %w: name it with -f FILE; docs/upgrade.md shows one", err)
	}
	inv := new(Inventory)
	if err := yaml.UnmarshalStrict(data, inv); err != nil {
		text := strings.Join(strings.Fields(err.Error()), " ")
		for _, frame := range []string{"error unmarshaling JSON: ", "while decoding JSON: ", "json: ", "error converting YAML to JSON: ", "yaml: "} {
			text = strings.TrimPrefix(text, frame)
		}
		return nil, fmt.Errorf("inventory %s: %s: correct it; docs/upgrade.md shows every key", path, text)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("inventory %s: %w", path, err)
	}
	inv.resolve(dir)
	if err := inv.validate(); err != nil {
		return nil, fmt.Errorf("inventory %s: %w", path, err)
	}
	return inv, nil
}

// resolve makes every relative path absolute.
func (inv *Inventory) resolve(dir string) {
	abs := func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	for _, p := range []*string{&inv.TLS.CACert, &inv.TLS.Cert, &inv.TLS.Key, &inv.Auth.PasswordFile} {
		abs(p)
	}
	if rest, ok := strings.CutPrefix(inv.Backup.Archive, "dir:"); ok && rest != "" {
		abs(&rest)
		inv.Backup.Archive = "dir:" + rest
	}
	remote := false
	for i := range inv.Members {
		h := &inv.Members[i].Host
		abs(&h.SSHKey)
		if h.SSH != "" {
			remote = true
			continue
		}
		for _, p := range []*string{&h.Dir, &h.PIDFile, &h.Log, &h.Manifest} {
			abs(p)
		}
		if len(h.Command) > 0 && strings.Contains(h.Command[0], "/") {
			abs(&h.Command[0])
		}
	}
	if !remote { // a path on another machine cannot be relative to a file on this one
		abs(&inv.Target.Binary)
		for i := range inv.Hops {
			abs(&inv.Hops[i].Binary)
		}
	}
	inv.State = cmp.Or(inv.State, "upgrade-"+inv.Cluster)
	abs(&inv.State)
}

var clusterName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// validate names the first field that is wrong, and what to write there.
func (inv *Inventory) validate() error {
	if !clusterName.MatchString(inv.Cluster) {
		return fmt.Errorf("cluster: %q: give the cluster a name of letters, digits, dots and dashes", inv.Cluster)
	}
	if len(inv.Members) == 0 {
		return errors.New("members: there is none: list every member with name, endpoint and host")
	}
	for i, m := range inv.Members {
		if err := inv.validateMember(i, m); err != nil {
			return err
		}
	}
	if (inv.TLS.Cert == "") != (inv.TLS.Key == "") {
		return errors.New("tls: cert and key go together: give both or none")
	}
	if (inv.Auth.User == "") != (inv.Auth.PasswordFile == "") {
		return errors.New("auth: user and passwordFile go together: give both or none")
	}
	if a := inv.Backup.Archive; a != "" && len(a) <= len("dir:") || a != "" && !strings.HasPrefix(a, "dir:") {
		return fmt.Errorf("backup.archive: %q: write dir: and a path, such as dir:/var/backups/etcd", a)
	}
	if err := inv.Target.validate("target", false); err != nil {
		return err
	}
	for i, h := range inv.Hops {
		if err := h.validate(fmt.Sprintf("hops[%d]", i), true); err != nil {
			return err
		}
	}
	if _, err := inv.limits(); err != nil {
		return err
	}
	for i, a := range inv.Kubernetes.APIServers {
		u, err := url.Parse(a)
		if _, bad := version.Parse(strings.TrimPrefix(a, "v")); bad != nil && (err != nil || u.Host == "") {
			return fmt.Errorf("kubernetes.apiservers[%d]: %q: give a version such as 1.29.3 or a URL such as https://10.0.0.1:6443", i, a)
		}
	}
	return nil
}

// validateMember checks one line of members.
func (inv *Inventory) validateMember(i int, m InventoryMember) error {
	at := fmt.Sprintf("members[%d]", i)
	if !clusterName.MatchString(m.Name) {
		return fmt.Errorf("%s.name: %q: give the member's name of letters, digits, dots and dashes", at, m.Name)
	}
	u, err := url.Parse(m.Endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Port() == "" || strings.Trim(u.Path, "/") != "" {
		return fmt.Errorf("%s.endpoint: %q: write the member's own client URL, such as https://10.0.0.1:2379", at, m.Endpoint)
	}
	for _, o := range inv.Members[:i] {
		if o.Name == m.Name {
			return fmt.Errorf("%s.name: %q is listed twice: each member has one line", at, m.Name)
		}
		if o.Endpoint == m.Endpoint {
			return fmt.Errorf("%s.endpoint: %q is also that of %s: give each member its own", at, m.Endpoint, o.Name)
		}
	}
	needs := map[string][2]string{"process": {"pidFile", m.Host.PIDFile}, "systemd": {"unit", m.Host.Unit}, "docker": {"container", m.Host.Container}, "staticpod": {"manifest", m.Host.Manifest}}
	need, ok := needs[m.Host.Kind]
	switch {
	case m.Host.Kind == "": // it can be looked at over the wire, and not be moved
	case !ok:
		return fmt.Errorf("%s.host.kind: %q: write process, systemd, docker or staticpod", at, m.Host.Kind)
	case need[1] == "":
		return fmt.Errorf("%s.host.%s: is missing: a host of kind %s needs it", at, need[0], m.Host.Kind)
	case m.Host.Kind == "process" && len(m.Host.Command) == 0:
		return fmt.Errorf("%s.host.command: is missing: give the program and its arguments as a list", at)
	}
	return nil
}

func (p Program) validate(at string, must bool) error {
	switch {
	case p.Binary == "" && p.Image == "" && (must || p.Version != ""):
		return fmt.Errorf("%s: name the binary or the image", at)
	case p.Binary != "" && !filepath.IsAbs(p.Binary):
		return fmt.Errorf("%s.binary: %q: write the absolute path on the members' hosts", at, p.Binary)
	}
	if _, err := version.Parse(p.Version); p.Version != "" && err != nil {
		return fmt.Errorf("%s.version: %q: write major.minor.patch, such as 3.6.16", at, p.Version)
	}
	return nil
}

// of is the program as a member can run it that runs now.
func (p Program) of(now host.Program) Program {
	if p.Binary != "" && p.Image != "" {
		if now.Image != "" {
			p.Binary = ""
		} else {
			p.Image = ""
		}
	}
	return p
}

// host is the program as executors name it.
func (p Program) host() host.Program { return host.Program{Binary: p.Binary, Image: p.Image} }

// limits returns the operator's limits with the defaults filled in.
func (inv *Inventory) limits() (plan.Limits, error) {
	l := defaultLimits
	for _, f := range []struct {
		name, text string
		to         *time.Duration
	}{{"stall", inv.Limits.Stall, &l.Stall}, {"catchup", inv.Limits.Catchup, &l.Catchup}, {"stop", inv.Limits.Stop, &l.Stop}} {
		if f.text == "" {
			continue
		}
		d, err := time.ParseDuration(f.text)
		if err != nil || d <= 0 {
			return l, fmt.Errorf("limits.%s: %q: write a duration such as 2s or 10m", f.name, f.text)
		}
		*f.to = d
	}
	return l, nil
}

// Endpoints are those of all members.
func (inv *Inventory) Endpoints() []string {
	var all []string
	for _, m := range inv.Members {
		all = append(all, m.Endpoint)
	}
	return all
}

// tlsConfig is nil when no endpoint is https.
func (inv *Inventory) tlsConfig() (*tls.Config, error) {
	if !slices.ContainsFunc(inv.Endpoints(), func(e string) bool { return strings.HasPrefix(e, "https://") }) {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: inv.TLS.SkipVerify}
	if inv.TLS.CACert != "" {
		pem, err := os.ReadFile(inv.TLS.CACert)
		if err != nil {
			return nil, fmt.Errorf("read tls.cacert: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read tls.cacert: %s holds no certificate in PEM form", inv.TLS.CACert)
		}
	}
	if inv.TLS.Cert != "" {
		pair, err := tls.LoadX509KeyPair(inv.TLS.Cert, inv.TLS.Key)
		if err != nil {
			return nil, fmt.Errorf("load tls.cert and tls.key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// Client makes a client of the cluster: of the given endpoints, or of all members.
func (inv *Inventory) Client(endpoints ...string) (*clientv3.Client, error) {
	password := ""
	if inv.Auth.PasswordFile != "" {
		data, err := os.ReadFile(inv.Auth.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("read auth.passwordFile: %w", err)
		}
		password = strings.TrimRight(string(data), "\r\n")
	}
	return inv.client(inv.Auth.User, password, endpoints)
}

// client makes a client with a login, or without one when user is empty.
func (inv *Inventory) client(user, password string, endpoints []string) (*clientv3.Client, error) {
	conf, err := inv.tlsConfig()
	if err != nil {
		return nil, err
	}
	if len(endpoints) == 0 {
		endpoints = inv.Endpoints()
	}
	return clientv3.New(clientv3.Config{
		Endpoints: endpoints, TLS: conf, Username: user, Password: password,
		DialTimeout: 5 * time.Second, DialKeepAliveTime: 5 * time.Second, DialKeepAliveTimeout: 5 * time.Second,
		Logger: zap.NewNop(), // what went wrong is in the errors
		// A member that is started again is seen at once, and not after gRPC's second.
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, MaxDelay: 250 * time.Millisecond}, MinConnectTimeout: 2 * time.Second})},
	})
}

// HTTP makes a client for the members' HTTP paths, with the same TLS.
func (inv *Inventory) HTTP() (*http.Client, error) {
	conf, err := inv.tlsConfig()
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}, nil
}

// Hosts makes the executor of every member, by name. The caller closes each.
func (inv *Inventory) Hosts() (map[string]host.Executor, error) {
	hosts := map[string]host.Executor{}
	for i, m := range inv.Members {
		var err error
		if m.Host.Kind == "" {
			err = errors.New("is missing: write process, systemd, docker or staticpod")
		} else {
			hosts[m.Name], err = host.New(m.Host)
		}
		if err != nil {
			delete(hosts, m.Name)
			for _, h := range hosts {
				_ = h.Close()
			}
			return nil, fmt.Errorf("members[%d].host (%s): %w", i, m.Name, err)
		}
	}
	return hosts, nil
}
