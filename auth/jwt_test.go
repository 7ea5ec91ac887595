package auth_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"theseus/auth"
)

// pair returns a key pair as PEM.
func pair(t *testing.T, private, public any) (priv, pub []byte) {
	t.Helper()
	p8, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	pk, err := x509.MarshalPKIXPublicKey(public)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: p8}), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pk})
}

func TestJWT(t *testing.T) {
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	edPub, ed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	keys := map[string][2][]byte{"HS256": {[]byte("a secret that both ends know"), nil}}
	for method, k := range map[string][2]any{"RS256": {r, &r.PublicKey}, "PS512": {r, &r.PublicKey}, "ES256": {e, &e.PublicKey}, "EdDSA": {ed, edPub}} {
		priv, pub := pair(t, k[0], k[1])
		keys[method] = [2][]byte{priv, pub}
	}
	now := time.Unix(1_700_000_000, 0)
	for method, k := range keys {
		signer, err := auth.NewJWT(auth.JWTOptions{SignMethod: method, Private: k[0], TTL: time.Minute})
		must(t, err)
		token, err := signer.Sign("u", 42, now)
		must(t, err)
		verifier := signer
		if k[1] != nil {
			verifier, err = auth.NewJWT(auth.JWTOptions{SignMethod: method, Public: k[1]})
			must(t, err)
			if _, err := verifier.Sign("u", 1, now); err != auth.ErrVerifyOnly {
				t.Errorf("%s: signing without a key: %v", method, err)
			}
		}
		if u, rev, ok := verifier.Verify(token, now.Add(59*time.Second)); !ok || u != "u" || rev != 42 {
			t.Errorf("%s: verify: %q %d %v", method, u, rev, ok)
		}
		if _, _, ok := verifier.Verify(token, now.Add(61*time.Second)); ok {
			t.Errorf("%s: a token outlived its time", method)
		}
		i := strings.LastIndexByte(token, '.') + 5
		forged := token[:i] + string(token[i]^1) + token[i+1:]
		if _, _, ok := verifier.Verify(forged, now); ok {
			t.Errorf("%s: a forged token is good", method)
		}
	}
	a, err := auth.NewJWT(auth.JWTOptions{SignMethod: "HS256", Private: keys["RS256"][1]})
	must(t, err)
	confused, err := a.Sign("root", 1, now)
	must(t, err)
	b, err := auth.NewJWT(auth.JWTOptions{SignMethod: "RS256", Public: keys["RS256"][1]})
	must(t, err)
	if _, _, ok := b.Verify(confused, now); ok {
		t.Error("a token signed with the public key as a secret is good")
	}
}

func TestJWTRefuses(t *testing.T) {
	for name, o := range map[string]auth.JWTOptions{
		"no method": {Private: []byte("x")}, "unknown method": {SignMethod: "XX", Private: []byte("x")}, "none": {SignMethod: "none"},
		"no key": {SignMethod: "RS256"}, "no secret": {SignMethod: "HS256"}, "bad pem": {SignMethod: "ES256", Private: []byte("x")},
		"bad public": {SignMethod: "EdDSA", Public: []byte("x")}, "ttl": {SignMethod: "HS256", Private: []byte("x"), TTL: -1},
	} {
		if _, err := auth.NewJWT(o); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}
