package embed

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"path/filepath"

	"go.etcd.io/etcd/client/pkg/v3/tlsutil"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.uber.org/zap"

	"theseus/config"
)

// security holds the TLS sides of both ports. Certificates and keys are read
// again at every handshake, revocation lists too.
type security struct {
	client, peer transport.TLSInfo
}

func newSecurity(c *config.Config, lg *zap.Logger) (security, error) {
	var s security
	var err error
	if s.client, err = tlsInfo(c, lg, c.ClientTLS, "client", append(c.ListenClientURLs, c.ListenClientHTTPURLs...)); err != nil {
		return s, err
	}
	s.client.AllowedHostnames = c.ClientAllowedHost
	if s.peer, err = tlsInfo(c, lg, c.PeerTLS, "peer", c.ListenPeerURLs, x509.ExtKeyUsageClientAuth); err != nil {
		return s, err
	}
	s.peer.AllowedCNs, s.peer.AllowedHostnames = c.PeerAllowedCN, c.PeerAllowedHost
	s.peer.SkipClientSANVerify = c.PeerSkipSAN
	return s, nil
}

// tlsInfo is one port's side. With auto TLS a certificate is made in the data
// directory's fixtures folder, and used again at the next start.
func tlsInfo(c *config.Config, lg *zap.Logger, t config.TLS, side string, listen []url.URL, usages ...x509.ExtKeyUsage) (transport.TLSInfo, error) {
	info := transport.TLSInfo{
		CertFile: t.Cert, KeyFile: t.Key, ClientCertFile: t.ClientCert, ClientKeyFile: t.ClientKey,
		TrustedCAFile: t.TrustedCA, ClientCertAuth: t.ClientCertAuth, CRLFile: t.CRL, Logger: lg,
	}
	if t.Auto && t.Cert == "" {
		var hosts []string
		for _, u := range listen {
			if u.Scheme == "https" {
				hosts = append(hosts, u.Host)
			}
		}
		if len(hosts) > 0 {
			made, err := transport.SelfCert(lg, filepath.Join(c.ResolvedDataDir(), "fixtures", side), hosts, c.SelfSignedYears, usages...)
			if err != nil {
				return info, fmt.Errorf("make a certificate for the %s port: %w", side, err)
			}
			made.Logger = lg
			info = made
		}
	}
	suites, err := tlsutil.GetCipherSuites(c.CipherSuites)
	if err != nil {
		return info, err
	}
	info.CipherSuites = suites
	if info.MinVersion, err = tlsutil.GetTLSVersion(c.TLSMinVersion); err != nil {
		return info, err
	}
	if info.MaxVersion, err = tlsutil.GetTLSVersion(c.TLSMaxVersion); err != nil {
		return info, err
	}
	return info, nil
}

// dialConfig is what the member shows and demands when it dials its peers; nil
// when peers speak plain HTTP.
func (s security) dialConfig(c *config.Config) (*tls.Config, error) {
	if s.peer.Empty() && !c.PeerTLS.Auto && c.PeerTLS.TrustedCA == "" {
		return nil, nil
	}
	cfg, err := s.peer.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("peer certificates: %w", err)
	}
	return cfg, nil
}

// dialClients is what the member shows and demands when it dials the client ports of
// other members; nil when clients speak plain HTTP.
func (s security) dialClients(c *config.Config) (*tls.Config, error) {
	if s.client.Empty() && !c.ClientTLS.Auto && c.ClientTLS.TrustedCA == "" {
		return nil, nil
	}
	cfg, err := s.client.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("client certificates: %w", err)
	}
	return cfg, nil
}
