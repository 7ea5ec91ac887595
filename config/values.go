package config

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
)

// errParse is the text that Go's flag package gives for a bad number.
var errParse = errors.New("parse error")

type text struct{ p *string }

func (v text) Set(s string) error { *v.p = s; return nil }
func (v text) String() string {
	if v.p == nil {
		return ""
	}
	return *v.p
}

type yes struct{ p *bool }

func (v yes) Set(s string) error {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return errParse
	}
	*v.p = b
	return nil
}
func (v yes) String() string   { return strconv.FormatBool(v.p != nil && *v.p) }
func (v yes) IsBoolFlag() bool { return true }

// num is a whole number of one of the types that etcd's flags have.
type num[T int | int64 | uint | uint32 | uint64] struct{ p *T }

func (v num[T]) Set(s string) error {
	n, err := strconv.ParseInt(s, 0, 64)
	u, uerr := strconv.ParseUint(s, 0, 64)
	var out T
	switch {
	case err == nil:
		out = T(n)
		if int64(out) != n || n < 0 && out > 0 {
			return errParse
		}
	case uerr == nil:
		out = T(u)
		if uint64(out) != u || out < 0 {
			return errParse
		}
	default:
		return errParse
	}
	*v.p = out
	return nil
}
func (v num[T]) String() string {
	if v.p == nil {
		return "0"
	}
	return fmt.Sprint(*v.p)
}

type dur struct{ p *time.Duration }

func (v dur) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil {
		return errParse
	}
	*v.p = d
	return nil
}
func (v dur) String() string {
	if v.p == nil {
		return "0s"
	}
	return v.p.String()
}

// list is comma separated.
type list struct{ p *[]string }

func (v list) Set(s string) error {
	*v.p = nil
	for _, part := range strings.Split(s, ",") {
		if part = strings.TrimSpace(part); part != "" && !slices.Contains(*v.p, part) {
			*v.p = append(*v.p, part)
		}
	}
	return nil
}
func (v list) String() string {
	if v.p == nil {
		return ""
	}
	return strings.Join(*v.p, ",")
}

// urls is a comma separated list of URLs, kept sorted and without doubles.
type urls struct{ p *[]url.URL }

func (v urls) Set(s string) error {
	if strings.TrimSpace(s) == "" {
		*v.p = nil
		return nil
	}
	parsed, err := ParseURLs(s)
	if err != nil {
		return err
	}
	*v.p = parsed
	return nil
}
func (v urls) String() string {
	if v.p == nil {
		return ""
	}
	return JoinURLs(*v.p)
}

// ParseURLs reads a comma separated list as etcd does: scheme, host and port,
// no path; unix sockets have a path and no port.
func ParseURLs(s string) ([]url.URL, error) {
	all, err := types.NewURLs(strings.Split(s, ","))
	if err != nil {
		return nil, err
	}
	return slices.CompactFunc(all, func(a, b url.URL) bool { return a.String() == b.String() }), nil
}

// JoinURLs is the inverse of ParseURLs.
func JoinURLs(all []url.URL) string {
	parts := make([]string, len(all))
	for i := range all {
		parts[i] = all[i].String()
	}
	return strings.Join(parts, ",")
}

func mustURLs(s string) []url.URL {
	all, err := ParseURLs(s)
	if err != nil {
		panic(err)
	}
	return all
}

// logger takes the one logger there is.
type logger struct{}

func (logger) Set(s string) error {
	switch s {
	case "zap":
		return nil
	case "capnslog":
		return errors.New("--logger=capnslog is removed in v3.5")
	}
	return fmt.Errorf("unknown logger option %q", s)
}
func (logger) String() string { return "zap" }

// discard takes anything; what it stands for has no effect.
type discard struct{ boolean bool }

func (d *discard) Set(string) error { return nil }
func (d *discard) String() string   { return "" }

// IsBoolFlag lets a flag without a value stand, for the boolean ones.
func (d *discard) IsBoolFlag() bool { return d.boolean }

// refusedBool is a switch that this build cannot turn on. Off is what it does.
func refusedBool() *mustBeOff { return &mustBeOff{} }

type mustBeOff struct{}

func (*mustBeOff) Set(s string) error {
	on, err := strconv.ParseBool(s)
	if err != nil {
		return errParse
	}
	if on {
		return errors.New("this build of Theseus does not serve it; leave it out")
	}
	return nil
}
func (*mustBeOff) String() string   { return "false" }
func (*mustBeOff) IsBoolFlag() bool { return true }
