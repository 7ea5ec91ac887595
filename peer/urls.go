package peer

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// urls picks one of a member's urls, and another after a failure.
type urls struct {
	mu   sync.Mutex
	list []string
	pos  int
}

// parseURLs takes only what can be dialed: http or https, a host, no path.
func parseURLs(in []string) ([]string, error) {
	var out []string
	for _, s := range in {
		u, err := url.Parse(strings.TrimSpace(s))
		if err != nil {
			return nil, fmt.Errorf("parse peer url: %w", err)
		}
		if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || strings.Trim(u.Path, "/") != "" {
			return nil, fmt.Errorf("peer url %q is not http(s)://host:port", s)
		}
		out = append(out, u.Scheme+"://"+u.Host)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no peer urls")
	}
	return out, nil
}

func (u *urls) set(list []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !slices.Equal(u.list, list) {
		u.list, u.pos = list, 0
	}
}

func (u *urls) pick() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.list) == 0 {
		return ""
	}
	return u.list[u.pos]
}

// failed moves on if the failed url is still the one that is picked.
func (u *urls) failed(s string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.list) > 0 && u.list[u.pos] == s {
		u.pos = (u.pos + 1) % len(u.list)
	}
}
