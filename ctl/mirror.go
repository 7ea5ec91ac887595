package ctl

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/mirror"
)

// mirrorReport is how often make-mirror says how many changes it has carried over.
const mirrorReport = 30 * time.Second

type mirrorFlags struct {
	prefix, destPrefix string
	noDestPrefix       bool
	rev                int64
	maxTxnOps          uint
	cert, key, cacert  string
	user, password     string
	insecureTransport  bool
}

func (a *app) mirrorCmd() *cobra.Command {
	var f mirrorFlags
	cmd := &cobra.Command{
		Use:   "make-mirror [options] <destination>",
		Short: "Makes a mirror at the destination etcd cluster",
		Run:   a.run(func(cmd *cobra.Command, args []string) error { return a.mirror(cmd, args, &f) }),
	}
	fs := cmd.Flags()
	fs.StringVar(&f.prefix, "prefix", "", "Key-value prefix to mirror")
	fs.Int64Var(&f.rev, "rev", 0, "Specify the kv revision to start to mirror")
	fs.UintVar(&f.maxTxnOps, "max-txn-ops", 128, "Maximum number of operations permitted in a transaction during syncing updates.")
	fs.StringVar(&f.destPrefix, "dest-prefix", "", "destination prefix to mirror a prefix to a different prefix in the destination cluster")
	fs.BoolVar(&f.noDestPrefix, "no-dest-prefix", false, "mirror key-values to the root of the destination cluster")
	fs.StringVar(&f.cert, "dest-cert", "", "Identify secure client using this TLS certificate file for the destination cluster")
	fs.StringVar(&f.key, "dest-key", "", "Identify secure client using this TLS key file")
	fs.StringVar(&f.cacert, "dest-cacert", "", "Verify certificates of TLS enabled secure servers using this CA bundle")
	fs.BoolVar(&f.insecureTransport, "dest-insecure-transport", true, "Disable transport security for client connections")
	fs.StringVar(&f.user, "dest-user", "", "Destination username[:password] for authentication (prompt if password is not supplied)")
	fs.StringVar(&f.password, "dest-password", "", "Destination password for authentication (if this option is used, --user option shouldn't include password)")
	return cmd
}

func (a *app) mirror(cmd *cobra.Command, args []string, f *mirrorFlags) error {
	if len(args) != 1 {
		return badArgs("make-mirror takes one destination argument")
	}
	if f.noDestPrefix && f.destPrefix != "" {
		return badArgs("`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one")
	}
	src, err := a.dial(cmd)
	if err != nil {
		return err
	}
	defer src.Close()
	auth, err := a.auth(f.user, f.password, "")
	if err != nil {
		return err
	}
	cfg, err := a.configFor([]string{args[0]}, &clientv3.SecureConfig{
		Cert: f.cert, Key: f.key, Cacert: f.cacert, InsecureTransport: f.insecureTransport,
	}, auth)
	if err != nil {
		return err
	}
	dest, err := a.open(cfg, "etcd-client")
	if err != nil {
		return err
	}
	defer dest.Close()
	m := &mirroring{dest: dest, prefix: f.prefix, destPrefix: f.destPrefix, maxOps: int(f.maxTxnOps)}
	if m.destPrefix == "" && !f.noDestPrefix {
		m.destPrefix = f.prefix
	}
	return a.runMirror(src, m, f.rev)
}

func (a *app) runMirror(src *clientv3.Client, m *mirroring, rev int64) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- m.run(ctx, src, rev) }()
	tick := time.NewTicker(mirrorReport)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			a.printf("%d\n", m.total.Load())
		case err := <-done:
			return err
		}
	}
}

// mirroring carries the keys below a prefix to another cluster, and then every
// change to them.
type mirroring struct {
	dest               *clientv3.Client
	prefix, destPrefix string
	maxOps             int
	total              atomic.Int64 // changes carried over
}

// run copies what is there, unless the changes from a revision on are asked for,
// and follows.
func (m *mirroring) run(ctx context.Context, src *clientv3.Client, rev int64) error {
	s := mirror.NewSyncer(src, m.prefix, max(rev-1, 0))
	if rev <= 1 {
		if err := m.copy(ctx, s); err != nil {
			return err
		}
	}
	for resp := range s.SyncUpdates(ctx) {
		if err := resp.Err(); err != nil {
			return err
		}
		if err := m.apply(ctx, resp.Events); err != nil {
			return err
		}
	}
	return errors.New("the watch of the source has ended")
}

func (m *mirroring) copy(ctx context.Context, s mirror.Syncer) error {
	pages, errs := s.SyncBase(ctx)
	for page := range pages {
		for _, kv := range page.Kvs {
			if _, err := m.dest.Put(ctx, m.rename(kv.Key), string(kv.Value)); err != nil {
				return err
			}
			m.total.Add(1)
		}
	}
	return <-errs
}

// apply carries the changes of one revision over in one transaction, unless they
// are more than a transaction may hold.
func (m *mirroring) apply(ctx context.Context, events []*clientv3.Event) error {
	var ops []clientv3.Op
	rev := int64(0)
	flush := func() error {
		if len(ops) == 0 {
			return nil
		}
		_, err := m.dest.Txn(ctx).Then(ops...).Commit()
		m.total.Add(int64(len(ops)))
		ops = ops[:0]
		return err
	}
	for _, e := range events {
		if e.Kv.ModRevision != rev || m.maxOps > 0 && len(ops) == m.maxOps {
			if err := flush(); err != nil {
				return err
			}
		}
		rev = e.Kv.ModRevision
		if e.Type == clientv3.EventTypeDelete {
			ops = append(ops, clientv3.OpDelete(m.rename(e.Kv.Key)))
		} else {
			ops = append(ops, clientv3.OpPut(m.rename(e.Kv.Key), string(e.Kv.Value)))
		}
	}
	return flush()
}

func (m *mirroring) rename(key []byte) string {
	return m.destPrefix + strings.TrimPrefix(string(key), m.prefix)
}
