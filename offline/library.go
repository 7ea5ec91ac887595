package offline

import (
	"errors"
	"fmt"
	"io"
)

// RestoreOptions say which new member a snapshot becomes. Cluster is the text of
// --initial-cluster, and PeerURLs is one of its URLs, or several with commas.
type RestoreOptions struct {
	DataDir  string // must not exist, or be empty
	Name     string
	Cluster  string
	PeerURLs string
	Token    string // default "etcd-cluster"
}

// Restore is `snapshot restore` for other rooms: the checksum is always looked at.
// What fails leaves nothing behind.
func Restore(file string, o RestoreOptions) error {
	if o.DataDir == "" || o.Name == "" {
		return errors.New("restore: name the data directory and the member")
	}
	if o.Token == "" {
		o.Token = "etcd-cluster"
	}
	t := &tool{name: utlName, stdin: nil, stdout: io.Discard, stderr: io.Discard}
	return t.restore(file, restoreFlags{dataDir: o.DataDir, name: o.Name, cluster: o.Cluster, token: o.Token, peer: o.PeerURLs})
}

// CheckSnapshot compares a snapshot file with the checksum at its end.
func CheckSnapshot(file string) error {
	err := checkHash(file, io.Discard)
	if errors.Is(err, errNoHash) {
		return fmt.Errorf("%s does not end in a checksum: it was cut short, or it is a copy of a running member's file", file)
	}
	if wrong := new(hashError); errors.As(err, &wrong) {
		return fmt.Errorf("%s is not what was sent: its checksum is %x, its bytes have %x", file, wrong.want, wrong.got)
	}
	return err
}
