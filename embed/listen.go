package embed

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"syscall"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.uber.org/zap"

	"theseus/config"
)

// listener is one bound address and the URL it was bound for.
type listener struct {
	net.Listener
	url url.URL
}

func (l listener) secure() bool { return l.url.Scheme == "https" || l.url.Scheme == "unixs" }

// listeners are every address of a member, bound.
type listeners struct {
	peers, clients, http, metrics []listener
}

// bind takes every port the configuration names, or none.
func bind(c *config.Config, sec security, lg *zap.Logger) (*listeners, error) {
	var ls listeners
	for _, kind := range []struct {
		flag string
		urls []url.URL
		to   *[]listener
		info transport.TLSInfo
	}{
		{"listen-peer-urls", c.ListenPeerURLs, &ls.peers, sec.peer},
		{"listen-client-urls", c.ListenClientURLs, &ls.clients, sec.client},
		{"listen-client-http-urls", c.ListenClientHTTPURLs, &ls.http, sec.client},
		{"listen-metrics-urls", c.ListenMetricsURLs, &ls.metrics, sec.client},
	} {
		for _, u := range kind.urls {
			l, err := bindOne(c, u, kind.info)
			if err != nil {
				ls.close()
				return nil, explainBind(kind.flag, err)
			}
			lg.Info("listening", zap.String("flag", kind.flag), zap.String("url", u.String()))
			*kind.to = append(*kind.to, listener{l, u})
		}
	}
	return &ls, nil
}

func bindOne(c *config.Config, u url.URL, info transport.TLSInfo) (net.Listener, error) {
	address := u.Host
	if u.Scheme == "unix" || u.Scheme == "unixs" {
		address = u.Host + u.Path
	}
	opts := []transport.ListenerOption{transport.WithSocketOpts(&transport.SocketOpts{ReusePort: c.ReusePort, ReuseAddress: c.ReuseAddress})}
	if u.Scheme == "https" || u.Scheme == "unixs" {
		opts = append(opts, transport.WithTLSInfo(&info))
	} else {
		opts = append(opts, transport.WithSkipTLSInfoCheck(true))
	}
	return transport.NewListenerWithOpts(address, u.Scheme, opts...)
}

// explainBind adds what to do next to the errors that operators meet.
func explainBind(flag string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w: another program holds the port; stop it, or give another address with --%s", err, flag)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%w: no interface of this machine has that address; correct --%s", err, flag)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w: give a port above 1023 with --%s, or the permission to bind it", err, flag)
	}
	return fmt.Errorf("--%s: %w", flag, err)
}

func (ls *listeners) all() []listener {
	var all []listener
	for _, part := range [][]listener{ls.peers, ls.clients, ls.http, ls.metrics} {
		all = append(all, part...)
	}
	return all
}

func (ls *listeners) close() {
	for _, l := range ls.all() {
		_ = l.Close()
	}
}
