package backup

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Format is the version of the manifest that this package writes.
const Format = 1

// maxManifestBytes bounds what is read as a manifest.
const maxManifestBytes = 4 << 20

// ID is a 64-bit number of etcd's, written in hex as etcd's own tools do.
type ID uint64

// MarshalText writes 16 hex digits or fewer.
func (i ID) MarshalText() ([]byte, error) { return strconv.AppendUint(nil, uint64(i), 16), nil }

// UnmarshalText reads them.
func (i *ID) UnmarshalText(b []byte) error {
	n, err := strconv.ParseUint(string(b), 16, 64)
	if err != nil {
		return fmt.Errorf("%q is not an ID in hex", b)
	}
	*i = ID(n)
	return nil
}

// String is the ID in hex.
func (i ID) String() string { return strconv.FormatUint(uint64(i), 16) }

// Manifest says what a backup is of, and what proved it.
type Manifest struct {
	ID        string    `json:"id"`      // also the name of its files
	Cluster   string    `json:"cluster"` // the operator's name for it
	ClusterID ID        `json:"clusterID"`
	Taken     time.Time `json:"taken"` // when the image was complete
	Source    Member    `json:"source"`
	Members   []Member  `json:"members"` // as the source saw them
	Versions  Versions  `json:"versions"`
	Term      uint64    `json:"term"` // of raft, at the source

	File   string `json:"file"` // beside the manifest
	Size   int64  `json:"size"` // bytes, with the checksum that the member put at the end
	SHA256 string `json:"sha256"`

	Revision  int64     `json:"revision"`
	Compacted int64     `json:"compacted"` // -1: never
	Keys      int64     `json:"keys"`
	HashKV    uint32    `json:"hashKV"`  // of the restored image at Revision, with Compacted
	Witnesses []Witness `json:"witness"` // the live members that were asked for theirs
	Tool      string    `json:"tool"`    // the Theseus that took it
}

// Member is one of the cluster.
type Member struct {
	ID         ID       `json:"id"`
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
	Learner    bool     `json:"learner,omitempty"`
}

// Versions are those of etcd's protocol and files. Empty: not known.
type Versions struct {
	Server  string `json:"server"` // of the source's program
	Cluster string `json:"cluster"`
	Storage string `json:"storage"` // since 3.6
}

// Witness is what one live member said of its own hash. Err is set where it said none:
// too old (before 3.3), a learner, or not there.
type Witness struct {
	Endpoint  string `json:"endpoint"`
	HashKV    uint32 `json:"hashKV,omitempty"`
	Compacted int64  `json:"compacted,omitempty"`
	Err       string `json:"err,omitempty"`
}

// Proven says how many live members had the same hash.
func (m *Manifest) Proven() int {
	n := 0
	for _, w := range m.Witnesses {
		if w.Err == "" {
			n++
		}
	}
	return n
}

// envelope is the file: the checksum is the CRC-32C of the manifest's JSON without
// spaces, so that it may be laid out for people.
type envelope struct {
	Format   int             `json:"format"`
	Checksum string          `json:"checksum"`
	Backup   json.RawMessage `json:"backup"`
}

// Encode returns the manifest's file.
func (m *Manifest) Encode() ([]byte, error) {
	if err := m.validate(); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	out, err := json.MarshalIndent(envelope{Format: Format, Checksum: checksum(raw), Backup: raw}, "", "  ")
	return append(out, '\n'), err
}

// Decode reads a manifest's file. Fields that it does not know are passed over: a later
// version may have more of them.
func Decode(data []byte) (Manifest, error) {
	var e envelope
	var m Manifest
	if len(data) > maxManifestBytes {
		return m, fmt.Errorf("manifest has %d bytes, more than %d", len(data), maxManifestBytes)
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return m, fmt.Errorf("manifest: %w", err)
	}
	if e.Format != Format {
		return m, fmt.Errorf("manifest has format %d, this program knows %d: use the Theseus that wrote it", e.Format, Format)
	}
	var raw bytes.Buffer
	if err := json.Compact(&raw, e.Backup); err != nil {
		return m, errors.New("manifest has no backup in it")
	}
	if sum := checksum(raw.Bytes()); sum != e.Checksum {
		return m, fmt.Errorf("manifest has the checksum %q, its content has %q: it was changed after it was written", e.Checksum, sum)
	}
	if err := json.Unmarshal(e.Backup, &m); err != nil {
		return Manifest{}, fmt.Errorf("manifest: %w", err)
	}
	if err := m.validate(); err != nil {
		return Manifest{}, err
	}
	return m, nil
}

func checksum(raw []byte) string {
	return fmt.Sprintf("%08x", crc32.Checksum(raw, crc32.MakeTable(crc32.Castagnoli)))
}

var (
	plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$`)
	sumText   = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// validate names the first field that cannot be. The file is a name and not a path, so
// that a manifest never leads out of its archive.
func (m *Manifest) validate() error {
	switch {
	case !plainName.MatchString(m.ID):
		return fmt.Errorf("manifest: id %q is not a name", m.ID)
	case !plainName.MatchString(m.Cluster):
		return fmt.Errorf("manifest: cluster %q is not a name: use letters, digits, dots and dashes", m.Cluster)
	case m.File != m.ID+imageSuffix:
		return fmt.Errorf("manifest: file %q is not %s", m.File, m.ID+imageSuffix)
	case m.Size <= 0:
		return fmt.Errorf("manifest: size %d", m.Size)
	case !sumText.MatchString(m.SHA256):
		return fmt.Errorf("manifest: sha256 %q is not 64 hex digits", m.SHA256)
	case m.Revision < 1 || m.Compacted < -1 || m.Compacted > m.Revision || m.Keys < 0:
		return fmt.Errorf("manifest: revision %d, compacted %d, %d keys cannot be", m.Revision, m.Compacted, m.Keys)
	case m.Taken.IsZero():
		return errors.New("manifest: taken is missing")
	}
	return nil
}

// String is one line for people.
func (m *Manifest) String() string {
	proof := fmt.Sprintf("hash %d equal at %d live members", m.HashKV, m.Proven())
	if m.Proven() == 0 {
		proof = "restored in proof; no member is new enough to tell its hash"
	}
	return fmt.Sprintf("%s: revision %d, %d keys, %s, %s", m.ID, m.Revision, m.Keys, sizeText(m.Size), proof)
}

// sizeText is a number of bytes for people.
func sizeText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return strings.TrimSuffix(strconv.FormatFloat(f, 'f', 1, 64), ".0") + " " + units[i]
}
