package auth

import (
	"strconv"
	"strings"
	"sync"
	"time"
)

// DefaultTokenTTL is how long a simple token lives after its last use.
const DefaultTokenTTL = 300 * time.Second

// Tokens are the simple tokens this member knows: 16 letters, a dot, and the index
// of the log entry that made it. Every member records them from the log, so a token
// is good everywhere; none survives a restart. Time is an argument. It may be used
// from any goroutine.
type Tokens struct {
	ttl time.Duration

	mu    sync.Mutex // guards known
	known map[string]tokenState
}

type tokenState struct {
	user string
	ends time.Time
}

// NewTokens returns an empty table; ttl 0 means DefaultTokenTTL.
func NewTokens(ttl time.Duration) *Tokens {
	if ttl == 0 {
		ttl = DefaultTokenTTL
	}
	return &Tokens{ttl: ttl, known: map[string]tokenState{}}
}

// Assign records a token of a user.
func (t *Tokens) Assign(token, user string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known[token] = tokenState{user, now.Add(t.ttl)}
}

// Lookup returns the token's user, and prolongs the token.
func (t *Tokens) Lookup(token string, now time.Time) (user string, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.known[token]
	if !ok || !now.Before(s.ends) {
		return "", false
	}
	s.ends = now.Add(t.ttl)
	t.known[token] = s
	return s.user, true
}

// Drop forgets the tokens of one user.
func (t *Tokens) Drop(user string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for token, s := range t.known {
		if s.user == user {
			delete(t.known, token)
		}
	}
}

// DropAll forgets all tokens.
func (t *Tokens) DropAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.known)
}

// Expire forgets the tokens whose time is over. Call it now and then, so that the
// table is bounded by the logins of one TTL.
func (t *Tokens) Expire(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for token, s := range t.known {
		if !now.Before(s.ends) {
			delete(t.known, token)
		}
	}
}

// Len is how many tokens the table holds.
func (t *Tokens) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.known)
}

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// SimplePrefix makes the 16 letters of a simple token from as many random bytes.
func SimplePrefix(random [16]byte) string {
	out := make([]byte, len(random))
	for i, r := range random {
		out[i] = letters[int(r)%len(letters)]
	}
	return string(out)
}

// SimpleToken is the token that the Authenticate entry at index makes of its prefix.
func SimpleToken(prefix string, index uint64) string {
	return prefix + "." + strconv.FormatUint(index, 10)
}

// SimpleIndex returns the index of the log entry that made a simple token: a member
// that has not applied it yet must wait before it looks the token up.
func SimpleIndex(token string) (index uint64, ok bool) {
	prefix, text, found := strings.Cut(token, ".")
	if !found || prefix == "" {
		return 0, false
	}
	index, err := strconv.ParseUint(text, 10, 64)
	return index, err == nil
}
