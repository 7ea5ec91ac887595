package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// DefaultJWTTTL is how long a signed token is good when the option does not say.
const DefaultJWTTTL = 5 * time.Minute

// JWTOptions is what --auth-token=jwt,... says.
type JWTOptions struct {
	// SignMethod is RS256, PS256, ES256, HS256 (or 384, 512) or EdDSA.
	SignMethod string
	// Public and Private are PEM, or the secret itself with HS256, HS384, HS512.
	// Without Private the member verifies and does not sign.
	Public, Private []byte
	// TTL of a token. Default 5 min.
	TTL time.Duration
}

// ErrVerifyOnly means that there is no private key to sign with.
var ErrVerifyOnly = errors.New("this member has no private key and can only verify tokens")

// JWT signs and verifies stateless tokens. Time is an argument.
type JWT struct {
	method       jwt.SigningMethod
	sign, verify any
	ttl          time.Duration
}

// claims are etcd's: who, and at which revision of the auth store.
type claims struct {
	Username string `json:"username"`
	Revision uint64 `json:"revision"`
	jwt.RegisteredClaims
}

// NewJWT checks the method and the keys.
func NewJWT(o JWTOptions) (*JWT, error) {
	j := &JWT{method: jwt.GetSigningMethod(o.SignMethod), ttl: o.TTL}
	if j.ttl == 0 {
		j.ttl = DefaultJWTTTL
	}
	if j.ttl < 0 {
		return nil, fmt.Errorf("jwt ttl %s: want a positive duration", o.TTL)
	}
	var err error
	switch j.method.(type) {
	case *jwt.SigningMethodHMAC:
		err = j.secret(o)
	case *jwt.SigningMethodRSA, *jwt.SigningMethodRSAPSS:
		err = loadPair(j, o, jwt.ParseRSAPrivateKeyFromPEM, jwt.ParseRSAPublicKeyFromPEM,
			func(k *rsa.PrivateKey) *rsa.PublicKey { return &k.PublicKey })
	case *jwt.SigningMethodECDSA:
		err = loadPair(j, o, jwt.ParseECPrivateKeyFromPEM, jwt.ParseECPublicKeyFromPEM,
			func(k *ecdsa.PrivateKey) *ecdsa.PublicKey { return &k.PublicKey })
	case *jwt.SigningMethodEd25519:
		err = loadPair(j, o, jwt.ParseEdPrivateKeyFromPEM, jwt.ParseEdPublicKeyFromPEM,
			func(k crypto.PrivateKey) crypto.PublicKey { return k.(ed25519.PrivateKey).Public() })
	default:
		err = fmt.Errorf("jwt sign-method %q is not known: use RS256, PS256, ES256, HS256 (or 384, 512) or EdDSA", o.SignMethod)
	}
	if err != nil {
		return nil, err
	}
	return j, nil
}

// secret takes the key of a method that has one key for both directions.
func (j *JWT) secret(o JWTOptions) error {
	key := o.Private
	if len(key) == 0 {
		key = o.Public
	}
	if len(key) == 0 {
		return fmt.Errorf("jwt sign-method %s needs a key", o.SignMethod)
	}
	j.sign, j.verify = key, key
	return nil
}

// loadPair reads a pair of keys; each may be missing, but not both.
func loadPair[Priv, Pub any](j *JWT, o JWTOptions, priv func([]byte) (Priv, error), pub func([]byte) (Pub, error), of func(Priv) Pub) error {
	if len(o.Private) == 0 && len(o.Public) == 0 {
		return fmt.Errorf("jwt sign-method %s needs priv-key, or pub-key to verify only", o.SignMethod)
	}
	if len(o.Private) > 0 {
		k, err := priv(o.Private)
		if err != nil {
			return fmt.Errorf("read jwt private key: %w", err)
		}
		j.sign, j.verify = k, of(k)
	}
	if len(o.Public) > 0 {
		k, err := pub(o.Public)
		if err != nil {
			return fmt.Errorf("read jwt public key: %w", err)
		}
		j.verify = k
	}
	return nil
}

// Sign makes a token for a user at a revision of the auth store.
func (j *JWT) Sign(user string, rev uint64, now time.Time) (string, error) {
	if j.sign == nil {
		return "", ErrVerifyOnly
	}
	t := jwt.NewWithClaims(j.method, claims{
		Username: user, Revision: rev,
		RegisteredClaims: jwt.RegisteredClaims{ExpiresAt: jwt.NewNumericDate(now.Add(j.ttl))},
	})
	return t.SignedString(j.sign)
}

// Verify returns what the token claims, if it is signed with our method and key and
// is not over.
func (j *JWT) Verify(token string, now time.Time) (user string, rev uint64, ok bool) {
	var c claims
	t, err := jwt.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return j.verify, nil },
		jwt.WithValidMethods([]string{j.method.Alg()}), jwt.WithExpirationRequired(),
		jwt.WithTimeFunc(func() time.Time { return now }))
	if err != nil || !t.Valid || c.Username == "" {
		return "", 0, false
	}
	return c.Username, c.Revision, true
}
