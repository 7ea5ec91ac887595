package host

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// podManifest is what is read of a static pod's manifest.
type podManifest struct {
	pod       string // metadata.name
	namespace string
	container string
	image     string
	command   []string
	args      []string
	env       map[string]string
	mounts    []podMount
	at        *yaml.Node // the image's scalar
}

// podMount is a folder of the host in the container.
type podMount struct{ host, container string }

// errManifest is a manifest that is none.
var errManifest = errors.New("it is not the manifest of one pod with a member in it")

// parseManifest reads a pod with a member: the container that is called etcd, or the
// only one there is.
func parseManifest(text []byte) (*podManifest, error) {
	var pod struct {
		Kind     string
		Metadata struct{ Name, Namespace string }
		Spec     struct {
			Containers []struct {
				Name, Image   string
				Command, Args []string
				Env           []struct{ Name, Value string }
				VolumeMounts  []struct {
					Name      string
					MountPath string `yaml:"mountPath"`
				} `yaml:"volumeMounts"`
			}
			Volumes []struct {
				Name     string
				HostPath struct{ Path string } `yaml:"hostPath"`
			}
		}
	}
	var tree yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&tree); err != nil {
		return nil, fmt.Errorf("%w: %w", errManifest, err)
	}
	if err := tree.Decode(&pod); err != nil {
		return nil, fmt.Errorf("%w: %w", errManifest, err)
	}
	at := 0
	if len(pod.Spec.Containers) != 1 {
		names := make([]string, len(pod.Spec.Containers))
		for i, c := range pod.Spec.Containers {
			names[i] = c.Name
		}
		at = slices.Index(names, "etcd")
	}
	if pod.Kind != "Pod" || pod.Metadata.Name == "" || at < 0 || len(pod.Spec.Containers) == 0 {
		return nil, errManifest
	}
	c := pod.Spec.Containers[at]
	m := &podManifest{pod: pod.Metadata.Name, namespace: pod.Metadata.Namespace, container: c.Name, image: c.Image, command: c.Command, args: c.Args, env: map[string]string{}}
	for _, e := range c.Env {
		m.env[e.Name] = e.Value
	}
	for _, v := range c.VolumeMounts {
		for _, of := range pod.Spec.Volumes {
			if of.Name == v.Name && of.HostPath.Path != "" {
				m.mounts = append(m.mounts, podMount{of.HostPath.Path, v.MountPath})
			}
		}
	}
	if containers := child(child(tree.Content[0], "spec"), "containers"); containers != nil && containers.Kind == yaml.SequenceNode {
		m.at = child(containers.Content[at], "image")
	}
	if m.at == nil || m.at.Kind != yaml.ScalarNode || m.at.Anchor != "" || m.image == "" {
		return nil, fmt.Errorf("the image of its container %s is not written as a plain value: write it out", c.Name)
	}
	return m, nil
}

// child returns the value of key in a mapping.
func child(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// withImage returns text with the member's image changed and every other byte as it
// was: the scalar is found where the parser saw it, and the result is read once more.
func withImage(text []byte, image string) ([]byte, error) {
	m, err := parseManifest(text)
	if err != nil {
		return nil, err
	}
	if image == "" || strings.ContainsAny(image, " \t\r\n'\"#{}[],&*!|>%`") {
		return nil, fmt.Errorf("image %q: write it as the kubelet pulls it", image)
	}
	written := m.at.Value
	switch m.at.Style &^ yaml.TaggedStyle {
	case yaml.DoubleQuotedStyle:
		written = `"` + written + `"`
	case yaml.SingleQuotedStyle:
		written = "'" + written + "'"
	}
	from := offset(text, m.at.Line, m.at.Column)
	if from < 0 || !bytes.HasPrefix(text[from:], []byte(written)) {
		return nil, fmt.Errorf("the image of its container %s is not written as a plain value: write it out on its line", m.container)
	}
	quote := written[:(len(written)-len(m.at.Value))/2]
	out := slices.Concat(text[:from], []byte(quote+image+quote), text[from+len(written):])
	again, err := parseManifest(out)
	if err != nil || again.image != image || again.pod != m.pod || !slices.Equal(again.command, m.command) || !slices.Equal(again.args, m.args) {
		return nil, fmt.Errorf("the image %q cannot be written into the manifest: edit it by hand", image)
	}
	return out, nil
}

// offset returns where line and column, both from 1, are in text. The parser counts
// columns in characters.
func offset(text []byte, line, column int) int {
	at := 0
	for ; line > 1; line-- {
		next := bytes.IndexByte(text[at:], '\n')
		if next < 0 {
			return -1
		}
		at += next + 1
	}
	for ; column > 1; column-- {
		if at >= len(text) {
			return -1
		}
		_, size := utf8.DecodeRune(text[at:])
		at += size
	}
	return at
}

// memberArgs returns the arguments behind the member's program.
func (m *podManifest) memberArgs() []string {
	all := slices.Concat(m.command, m.args)
	if len(m.command) > 0 {
		all = all[1:]
	}
	return memberArgs(all)
}

// hostPath returns where dir of the container is on the host, "" if it is in no mount.
func (m *podManifest) hostPath(dir string) string {
	best := podMount{}
	for _, v := range m.mounts {
		inside := dir == v.container || strings.HasPrefix(dir, strings.TrimSuffix(v.container, "/")+"/")
		if inside && len(v.container) > len(best.container) {
			best = v
		}
	}
	if best.host == "" {
		return ""
	}
	return best.host + strings.TrimPrefix(dir, strings.TrimSuffix(best.container, "/"))
}
