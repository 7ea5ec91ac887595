package ctl

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/client/pkg/v3/logutil"
	"go.etcd.io/etcd/client/pkg/v3/srv"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc/grpclog"
)

// dial connects with what the flags and the environment say. It includes begin.
func (a *app) dial(cmd *cobra.Command) (*clientv3.Client, error) {
	if err := a.begin(cmd); err != nil {
		return nil, err
	}
	return a.connect()
}

// withClient runs what is short with a client.
func (a *app) withClient(cmd *cobra.Command, f func(context.Context, *clientv3.Client) error) error {
	c, err := a.dial(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := a.timeout()
	defer cancel()
	return f(ctx, c)
}

// connect connects after begin.
func (a *app) connect() (*clientv3.Client, error) {
	cfg, err := a.config()
	if err != nil {
		return nil, err
	}
	return a.open(cfg, "etcd-client")
}

// open makes a client whose log, where it has one, goes by the name given.
func (a *app) open(cfg clientv3.Config, logName string) (*clientv3.Client, error) {
	cfg.Logger = a.logger(logName)
	c, err := clientv3.New(cfg)
	return c, fail(exitConnection, err)
}

// config turns the flags into the configuration of a client.
func (a *app) config() (clientv3.Config, error) {
	if a.g.debug {
		grpclog.SetLoggerV2(grpclog.NewLoggerV2WithVerbosity(a.o.Stderr, a.o.Stderr, a.o.Stderr, 4))
	}
	endpoints, err := a.endpoints()
	if err != nil {
		return clientv3.Config{}, fail(exitError, err)
	}
	auth, err := a.auth(a.g.user, a.g.password, a.g.token)
	if err != nil {
		return clientv3.Config{}, err
	}
	return a.configFor(endpoints, &clientv3.SecureConfig{
		Cert: a.g.cert, Key: a.g.key, Cacert: a.g.cacert, ServerName: a.g.srvDomain,
		InsecureTransport: a.g.insecureTransport, InsecureSkipVerify: a.g.insecureSkipVerify,
	}, auth)
}

func (a *app) configFor(endpoints []string, secure *clientv3.SecureConfig, auth *clientv3.AuthConfig) (clientv3.Config, error) {
	spec := &clientv3.ConfigSpec{
		Endpoints: endpoints, DialTimeout: a.g.dialTimeout,
		KeepAliveTime: a.g.keepaliveTime, KeepAliveTimeout: a.g.keepaliveTimeout,
		MaxCallSendMsgSize: a.g.maxRequestBytes, MaxCallRecvMsgSize: a.g.maxRecvBytes,
		Secure: secure, Auth: auth,
	}
	cfg, err := clientv3.NewClientConfig(spec, a.logger("client"))
	if err != nil {
		return clientv3.Config{}, fail(exitBadArgs, err)
	}
	return *cfg, nil
}

// auth is how the client names itself: by token, or by user and password, which is
// asked for when neither flag holds it.
func (a *app) auth(user, password, token string) (*clientv3.AuthConfig, error) {
	switch {
	case token != "":
		return &clientv3.AuthConfig{Token: token}, nil
	case user == "":
		return nil, nil
	case password != "":
		return &clientv3.AuthConfig{Username: user, Password: password}, nil
	}
	name, password, given := strings.Cut(user, ":")
	if !given {
		var err error
		if password, err = a.askPassword("Password: "); err != nil {
			return nil, err
		}
	}
	return &clientv3.AuthConfig{Username: name, Password: password}, nil
}

// endpoints are those of the flag, or of the DNS records of --discovery-srv.
func (a *app) endpoints() ([]string, error) {
	if a.g.srvDomain == "" {
		return a.g.endpoints, nil
	}
	found, err := srv.GetClient("etcd-client", a.g.srvDomain, a.g.srvName)
	if err != nil {
		return nil, err
	}
	if a.g.insecureDiscovery {
		return found.Endpoints, nil
	}
	return transport.ValidateSecureEndpoints(transport.TLSInfo{ServerName: a.g.srvDomain}, found.Endpoints)
}

// clusterEndpoints are those of the flags or, with all, the client URLs of every member.
func (a *app) clusterEndpoints(ctx context.Context, c *clientv3.Client, all bool) ([]string, error) {
	if !all {
		return c.Endpoints(), nil
	}
	members, err := c.MemberList(ctx)
	if err != nil {
		return nil, fmt.Errorf("failed to fetch endpoints from etcd cluster member list: %w", err)
	}
	var urls []string
	for _, m := range members.Members {
		urls = append(urls, m.ClientURLs...)
	}
	return urls, nil
}

// timeout bounds one command that is expected to be short.
func (a *app) timeout() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), a.g.commandTimeout)
}

// logger is etcdctl's: JSON lines on stderr. Under our own name the client's log
// is for --debug; of it only the reason of a failure is kept, for hint.
func (a *app) logger(name string) *zap.Logger {
	if !a.exact && !a.g.debug {
		return zap.New(&a.reason)
	}
	enc := zapcore.NewJSONEncoder(logutil.DefaultZapLoggerConfig.EncoderConfig)
	lg := zap.New(zapcore.NewCore(enc, zapcore.AddSync(a.o.Stderr), zap.InfoLevel), zap.AddCaller(), zap.WithFatalHook(goOn{}))
	if name != "" {
		lg = lg.Named(name)
	}
	return lg
}

// goOn lets a message of level fatal be only a message: Main returns an exit code.
type goOn struct{}

func (goOn) OnWrite(*zapcore.CheckedEntry, []zapcore.Field) {}

// reason is a log that keeps only why the last connection could not be made, which
// the errors of the client do not say.
type reason struct {
	mu   sync.Mutex
	text string
}

// dialFailure is how the client's log tells of it.
const dialFailure = "latest balancer error: connection error: desc = "

func (r *reason) Enabled(l zapcore.Level) bool      { return l >= zap.WarnLevel }
func (r *reason) With([]zapcore.Field) zapcore.Core { return r }
func (r *reason) Sync() error                       { return nil }

func (r *reason) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if r.Enabled(e.Level) {
		return c.AddCore(e, r)
	}
	return c
}

func (r *reason) Write(_ zapcore.Entry, fields []zapcore.Field) error {
	for _, f := range fields {
		err, ok := f.Interface.(error)
		if !ok || f.Key != "error" {
			continue
		}
		if _, why, found := strings.Cut(err.Error(), dialFailure); found {
			why = strings.TrimPrefix(strings.Trim(why, `"`), "transport: ")
			r.mu.Lock()
			r.text = strings.TrimPrefix(why, "Error while dialing: ")
			r.mu.Unlock()
		}
	}
	return nil
}

func (r *reason) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text
}
