package config

import (
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// fromFile reads the settings from a YAML or JSON file; nothing else counts
// then. Keys are flag names, with the two TLS groups and the names that etcd's
// file spells in its own way.
func fromFile(path string, readFile func(string) ([]byte, error)) (*Config, error) {
	b, err := readFile(path)
	if err != nil {
		return nil, err
	}
	asJSON, err := yaml.YAMLToJSON(b)
	if err != nil {
		return nil, fmt.Errorf("error converting YAML to JSON: %w", err)
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(asJSON, &keys); err != nil && string(asJSON) != "null" {
		return nil, fmt.Errorf("error unmarshaling JSON: while decoding JSON: %w", err)
	}
	c := New()
	c.Warnings = append(c.Warnings, Warning{Info: true, Message: "loaded configuration file; other configuration command line flags and environment variables will be ignored if provided", Fields: []string{"path", path}})
	byName := map[string]field{}
	for _, f := range c.fields() {
		byName[f.name] = f
	}
	for _, key := range sorted(keys) {
		if err := c.fromKey(key, keys[key], byName); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func sorted(m map[string]json.RawMessage) []string {
	names := make([]string, 0, len(m))
	for k := range m {
		names = append(names, k)
	}
	sort.Strings(names)
	return names
}

// groups are the sections of the file, and the flag that each of their keys is.
var groups = map[string]map[string]string{
	"client-transport-security": {
		"cert-file": "cert-file", "key-file": "key-file", "client-cert-file": "client-cert-file",
		"client-key-file": "client-key-file", "client-cert-auth": "client-cert-auth",
		"trusted-ca-file": "trusted-ca-file", "auto-tls": "auto-tls", "allowed-hostnames": "client-cert-allowed-hostname",
		"allowed-hostname": "client-cert-allowed-hostname",
	},
	"peer-transport-security": {
		"cert-file": "peer-cert-file", "key-file": "peer-key-file", "client-cert-file": "peer-client-cert-file",
		"client-key-file": "peer-client-key-file", "client-cert-auth": "peer-client-cert-auth",
		"trusted-ca-file": "peer-trusted-ca-file", "auto-tls": "peer-auto-tls",
		"allowed-cn": "peer-cert-allowed-cn", "allowed-cns": "peer-cert-allowed-cn",
		"allowed-hostname": "peer-cert-allowed-hostname", "allowed-hostnames": "peer-cert-allowed-hostname",
		"skip-client-san-verification": "peer-skip-client-san-verification",
	},
}

func (c *Config) fromKey(key string, value json.RawMessage, byName map[string]field) error {
	if g, ok := groups[key]; ok {
		var inner map[string]json.RawMessage
		if err := json.Unmarshal(value, &inner); err != nil {
			return fmt.Errorf("error unmarshaling JSON: while decoding JSON: %w", err)
		}
		for _, k := range sorted(inner) {
			name, known := g[k]
			if !known {
				c.unknownKey(key + "." + k)
				continue
			}
			if err := c.setKey(key+"."+k, byName[name], inner[k]); err != nil {
				return err
			}
		}
		return nil
	}
	f, known := byName[key]
	if !known {
		c.unknownKey(key)
		return nil
	}
	if f.status == refused {
		return notBuilt(key)
	}
	return c.setKey(key, f, value)
}

// unknownKey warns: etcd passes over it without a word, and a file that starts
// etcd must start us.
func (c *Config) unknownKey(key string) {
	c.Warnings = append(c.Warnings, Warning{Message: "unknown key in the configuration file is ignored; check its spelling", Fields: []string{"key", key}})
}

// setKey decodes with the strict types of etcd's file: durations are whole
// nanoseconds, lists are lists for log-outputs, everything else is as its flag.
func (c *Config) setKey(key string, f field, raw json.RawMessage) error {
	if string(raw) == "null" {
		return nil
	}
	s, kind := scalar(raw)
	want, goType := "string", "string"
	switch v := f.value.(type) {
	case yes, *mustBeOff:
		want, goType = "bool", "bool"
	case dur:
		want, goType = "number", "time.Duration"
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			s = time.Duration(n).String()
		}
	case num[int], num[int64], num[uint], num[uint32], num[uint64]:
		want, goType = "number", strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%T", v), "config.num["), "]")
	case list:
		if kind == "array" {
			want = kind
		} else if key == "log-outputs" {
			want, goType = "array", "[]string"
		}
	}
	if kind != want {
		return fmt.Errorf("error unmarshaling JSON: while decoding JSON: json: cannot unmarshal %s into Go struct field configYAML.Config.%s of type %s", kind, key, goType)
	}
	if err := f.value.Set(s); err != nil {
		return fmt.Errorf("invalid value %q for %s: %w", s, key, err)
	}
	c.set[f.name] = true
	return nil
}

// scalar returns a JSON value as the text a flag would have, and its kind.
func scalar(raw json.RawMessage) (value, kind string) {
	switch raw[0] {
	case '"':
		var s string
		_ = json.Unmarshal(raw, &s)
		return s, "string"
	case 't', 'f':
		return string(raw), "bool"
	case '[':
		var l []string
		_ = json.Unmarshal(raw, &l)
		return strings.Join(l, ","), "array"
	case '{':
		return "", "object"
	}
	return string(raw), "number"
}
