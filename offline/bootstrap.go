package offline

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/types"

	"theseus/member"
)

// plan is the cluster that a restored member begins in.
type plan struct {
	clusterID uint64
	members   []member.Member // in ascending order of id
	self      member.Member
}

// newPlan reads the flags that say who the members are, and refuses what etcdutl
// refuses in its words. Each flag value is a list with commas; in cluster each part
// is name=URL.
func newPlan(name, cluster, token, advertised string) (plan, error) {
	own, err := types.NewURLs(strings.Split(advertised, ","))
	if err != nil {
		return plan{}, err
	}
	urls, err := parseCluster(cluster)
	if err != nil {
		return plan{}, err
	}
	if urls[name] == nil {
		return plan{}, fmt.Errorf("couldn't find local name %q in the initial cluster configuration", name)
	}
	if err := distinct(urls); err != nil {
		return plan{}, err
	}
	if err := matches(name, urls[name], own.StringSlice()); err != nil {
		return plan{}, err
	}
	var p plan
	var ids []uint64
	for n, u := range urls {
		m := member.Member{ID: member.MemberID(u, token, 0), PeerURLs: u, Name: n}
		p.members, ids = append(p.members, m), append(ids, m.ID)
		if n == name {
			p.self = m
		}
	}
	slices.SortFunc(p.members, func(a, b member.Member) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	p.clusterID = member.ClusterID(ids)
	return p, nil
}

// parseCluster reads name=URL,name=URL,...; a name may come more than once. The URLs
// of each name are sorted.
func parseCluster(s string) (map[string][]string, error) {
	raw := make(map[string][]string)
	if s != "" {
		for part := range strings.SplitSeq(s, ",") {
			name, u, _ := strings.Cut(part, "=")
			raw[name] = append(raw[name], u)
		}
	}
	delete(raw, "")
	for name, list := range raw {
		urls, err := types.NewURLs(list)
		if err != nil {
			return nil, err
		}
		raw[name] = urls.StringSlice()
	}
	return raw, nil
}

// distinct refuses a cluster in which one URL stands for two members.
func distinct(urls map[string][]string) error {
	seen := make(map[string]bool)
	for _, list := range urls {
		for _, u := range list {
			if seen[u] {
				return fmt.Errorf("initial cluster %s has duplicate url", clusterText(urls))
			}
			seen[u] = true
		}
	}
	return nil
}

func clusterText(urls map[string][]string) string {
	var parts []string
	for name, list := range urls {
		parts = append(parts, prefixed(name, list)...)
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

func prefixed(name string, urls []string) []string {
	var out []string
	for _, u := range urls {
		out = append(out, name+"="+u)
	}
	return out
}

// matches checks that a member advertises what the cluster expects of it: the same
// URLs, or other spellings of the same addresses.
func matches(name string, cluster, own []string) error {
	if slices.Equal(cluster, own) {
		return nil
	}
	why := fmt.Sprintf("len(%q) != len(%q)", own, cluster)
	if len(cluster) == len(own) {
		a, b := resolved(own), resolved(cluster)
		if slices.Equal(a, b) {
			return nil
		}
		why = differing(a, b)
	}
	for _, u := range cluster {
		if !slices.Contains(own, u) {
			return fmt.Errorf("--initial-cluster has %s=%s but missing from --initial-advertise-peer-urls=%s (%s)",
				name, u, strings.Join(own, ","), why)
		}
	}
	for _, u := range own {
		if !slices.Contains(cluster, u) {
			return fmt.Errorf("--initial-advertise-peer-urls has %s but missing from --initial-cluster=%s",
				u, strings.Join(prefixed(name, own), ","))
		}
	}
	return errors.New("--initial-cluster and --initial-advertise-peer-urls name a URL twice")
}

// differing names the first two addresses that are not the same.
func differing(a, b []string) string {
	for i := range a {
		if a[i] != b[i] {
			return fmt.Sprintf("resolved urls: %q != %q", a[i], b[i])
		}
	}
	return ""
}

// resolved puts addresses in the place of host names, as far as they are known;
// localhost is left as it is.
func resolved(urls []string) []string {
	out := make([]string, 0, len(urls))
	for _, s := range urls {
		u, err := url.Parse(s)
		if err == nil && u.Hostname() != "localhost" {
			if found, err := net.ResolveTCPAddr("tcp", u.Host); err == nil {
				u.Host = found.String()
				s = u.String()
			}
		}
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}
