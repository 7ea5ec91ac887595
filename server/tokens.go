package server

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"theseus/api"
	"theseus/auth"
)

// tokenSource makes and reads tokens: simple ones, which every member remembers from
// the log, or signed ones.
type tokenSource struct {
	simple *auth.Tokens
	jwt    *auth.JWT // nil with simple tokens
}

// newTokens reads --auth-token: "simple", or "jwt," and options.
func newTokens(spec string, ttl time.Duration) (*tokenSource, error) {
	kind, rest, _ := strings.Cut(spec, ",")
	switch kind {
	case "", "simple":
		return &tokenSource{simple: auth.NewTokens(ttl)}, nil
	case "jwt":
		o, err := jwtOptions(rest)
		if err != nil {
			return nil, fmt.Errorf("auth-token %q: %w", kind, err)
		}
		j, err := auth.NewJWT(o)
		if err != nil {
			return nil, fmt.Errorf("auth-token %q: %w", kind, err)
		}
		return &tokenSource{simple: auth.NewTokens(ttl), jwt: j}, nil
	default:
		return nil, fmt.Errorf("auth-token %q is unknown: use simple or jwt", kind)
	}
}

func jwtOptions(spec string) (o auth.JWTOptions, err error) {
	for _, pair := range strings.Split(spec, ",") {
		key, value, _ := strings.Cut(pair, "=")
		switch key {
		case "sign-method":
			o.SignMethod = value
		case "pub-key":
			o.Public, err = os.ReadFile(value)
		case "priv-key":
			o.Private, err = os.ReadFile(value)
		case "ttl":
			o.TTL, err = time.ParseDuration(value)
		case "":
		default:
			err = fmt.Errorf("unknown option %q", key)
		}
		if err != nil {
			return o, err
		}
	}
	return o, nil
}

// renewable tells whether looking at the credentials again can give a newer auth
// revision: a signed token carries its own.
func (c Credentials) renewable() bool { return strings.Count(c.Token, ".") != 2 }

// authOn reports whether authentication is on.
func (s *Server) authOn() bool { return s.store.Load().mach.Auth().Enabled() }

func (s *Server) authRevision() uint64 { return s.store.Load().mach.Auth().Revision() }

// later runs fn on a goroutine of its own in the name of who asks.
func (s *Server) later(c Credentials, w Waiter, fn func(ctx context.Context) Outcome) {
	ok := s.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(WithCredentials(s.ctx, c), s.o.requestTimeout())
		defer cancel()
		w.Done(fn(ctx))
	})
	if !ok {
		w.Done(Outcome{Err: api.ErrStopped})
	}
}

// identify turns credentials into the header that an entry carries: who asks, and the
// auth revision at which that was true. While authentication is off it is empty.
func (s *Server) identify(ctx context.Context, c Credentials) (*pb.RequestHeader, error) {
	h := &pb.RequestHeader{}
	a := s.store.Load().mach.Auth()
	if !a.Enabled() {
		return h, nil
	}
	rev := a.Revision()
	switch {
	case c.Token != "" && s.tokens.jwt != nil:
		user, at, ok := s.tokens.jwt.Verify(c.Token, time.Now())
		if !ok {
			return nil, api.ErrInvalidAuthToken
		}
		h.Username, h.AuthRevision = user, at
	case c.Token != "":
		user, err := s.simpleToken(ctx, c.Token)
		if err != nil {
			return nil, err
		}
		h.Username, h.AuthRevision = user, rev
	case c.CommonName != "":
		h.Username, h.AuthRevision = c.CommonName, rev
	}
	return h, nil
}

// simpleToken looks a token up, once this member has applied the entry that made it.
func (s *Server) simpleToken(ctx context.Context, token string) (string, error) {
	index, ok := auth.SimpleIndex(token)
	if !ok {
		return "", api.ErrInvalidAuthToken
	}
	// A token of a far index is no reason to wait: nothing has handed it out.
	if index > s.applied.Current() && index <= s.node.Commit()+maxBacklog {
		if err := s.waitApplied(ctx, index); err != nil {
			return "", api.ErrInvalidAuthToken
		}
	}
	user, ok := s.tokens.simple.Lookup(token, time.Now())
	if !ok {
		return "", api.ErrInvalidAuthToken
	}
	return user, nil
}

// waitApplied waits, within ctx and a request timeout, until the entry is applied.
func (s *Server) waitApplied(ctx context.Context, index uint64) error {
	if s.applied.Current() >= index {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.requestTimeout())
	defer cancel()
	return s.applied.Wait(ctx, index)
}

// rootHeader is the header of what the member proposes by itself: with authentication
// on, only root may (interop 7.5).
func (s *Server) rootHeader() *pb.RequestHeader {
	h := &pb.RequestHeader{}
	if a := s.store.Load().mach.Auth(); a.Enabled() {
		h.Username, h.AuthRevision = "root", a.Revision()
	}
	return h
}

// newToken makes what an Authenticate entry carries.
func (s *Server) newToken() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return auth.SimplePrefix(b)
}

// asUser identifies who asks and demands that it is somebody.
func (s *Server) asUser(ctx context.Context) (*pb.RequestHeader, error) {
	h, err := s.identify(ctx, credentials(ctx))
	if err == nil && h.Username == "" && s.authOn() {
		err = api.ErrUserEmpty
	}
	return h, err
}

// asAdmin identifies who asks and demands role root.
func (s *Server) asAdmin(ctx context.Context) error {
	h, err := s.identify(ctx, credentials(ctx))
	if err != nil {
		return err
	}
	return s.store.Load().mach.Auth().CheckAdmin(h.Username)
}
