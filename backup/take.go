package backup

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"theseus/internal/vfs"
)

// Source is a client of the cluster; *clientv3.Client is one. Snapshot asks the member
// that the image is to come from, so a client for Take has that endpoint only.
type Source interface {
	Snapshot(ctx context.Context) (io.ReadCloser, error)
	Status(ctx context.Context, endpoint string) (*clientv3.StatusResponse, error)
	HashKV(ctx context.Context, endpoint string, rev int64) (*clientv3.HashKVResponse, error)
	MemberList(ctx context.Context, opts ...clientv3.OpOption) (*clientv3.MemberListResponse, error)
}

// Options say what is backed up, and where to.
type Options struct {
	Archive   string         // dir:/path; made if it is missing
	Cluster   string         // the operator's name for it: letters, digits, dots and dashes
	Source    Source         // a client of one member, with login and TLS
	Endpoint  string         // of that member
	Witnesses []string       // endpoints of all members, which are asked for their hash; default: Endpoint
	Tool      string         // the program's version, for the manifest
	Progress  func(Progress) // called now and then, from the goroutine of Take; may be nil
	FS        vfs.FS         // nil: vfs.OS
}

// Progress is how far a backup has come.
type Progress struct {
	Stage Stage
	Done  int64 // bytes of the image
	Total int64 // bytes the source said that it has; what is sent may be less
}

// Stage is what Take is at.
type Stage string

// The stages, in their order.
const (
	Receiving Stage = "receiving" // the image from the member
	Restoring Stage = "restoring" // into a scratch store
	Comparing Stage = "comparing" // with the live members
	Kept      Stage = "kept"      // it is a backup now
)

// Bounds of what is waited for.
const (
	askTimeout   = 10 * time.Second       // for an answer to a small question
	liveTimeout  = 3 * time.Second        // for a sign of life of a witness
	stallTimeout = 30 * time.Second       // without a byte of the image
	hashTimeout  = 2 * time.Minute        // for a hash, which reads the whole database
	levelTimeout = 30 * time.Second       // for a member that lags behind the image
	askAgain     = 100 * time.Millisecond // between two questions to one that lags
	chunkBytes   = 256 << 10
)

// ErrDiffers says that a live member does not hold what the image does: another try
// finds the same, and the member that differs has to be found first.
var ErrDiffers = errors.New("the backup is not proven")

// ErrNoRoom says that the archive's disk has too little space.
var ErrNoRoom = errors.New("too little space")

// Tool names this program and, where the build knows it, its commit.
func Tool() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "theseus"
	}
	return strings.TrimSpace("theseus " + info.Main.Version)
}

// errTooOld is what members before 3.3 answer when they are asked for a hash.
var errTooOld = errors.New("it is too old to tell its hash")

// taking is one backup under way.
type taking struct {
	o     Options
	fs    vfs.FS
	dir   string
	m     Manifest
	total int64 // bytes the source has, by its status
}

// Take makes one backup, proves it, and returns its manifest. A file that could not be
// proven is kept beside the backups and named in the error.
func Take(ctx context.Context, o Options) (Manifest, error) {
	t := &taking{o: o, fs: o.FS}
	if t.fs == nil {
		t.fs = vfs.OS
	}
	if len(t.o.Witnesses) == 0 {
		t.o.Witnesses = []string{o.Endpoint}
	}
	if t.o.Progress == nil {
		t.o.Progress = func(Progress) {}
	}
	var err error
	if t.dir, err = Dir(o.Archive); err != nil {
		return Manifest{}, err
	}
	if !plainName.MatchString(o.Cluster) || len(o.Cluster) > 100 {
		return Manifest{}, fmt.Errorf("cluster %q: give it a name of letters, digits, dots and dashes", o.Cluster)
	}
	if err := t.ask(ctx); err != nil {
		return Manifest{}, fmt.Errorf("ask %s: %w", o.Endpoint, err)
	}
	if err := makeArchive(t.fs, t.dir); err != nil {
		return Manifest{}, err
	}
	if err := room(t.dir, 2*t.total); err != nil {
		return Manifest{}, err
	}
	part, err := t.receive(ctx)
	if err != nil {
		return Manifest{}, err
	}
	if err := t.prove(ctx, part); err != nil {
		return Manifest{}, t.unproven(part, err)
	}
	if err := t.keep(part); err != nil {
		return Manifest{}, err
	}
	t.o.Progress(Progress{Stage: Kept, Done: t.m.Size, Total: t.m.Size})
	return t.m, nil
}

// ask learns what the manifest says beside the image.
func (t *taking) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout, fmt.Errorf("no answer within %s: is it running?", askTimeout))
	defer cancel()
	st, err := t.o.Source.Status(ctx, t.o.Endpoint)
	if err == nil && st.Header == nil {
		err = errors.New("it answers without a header: is it an etcd?")
	}
	if err != nil {
		return caused(ctx, err)
	}
	list, err := t.o.Source.MemberList(ctx, clientv3.WithSerializable())
	if err != nil {
		return caused(ctx, err)
	}
	t.total = st.DbSize
	t.m = Manifest{Cluster: t.o.Cluster, ClusterID: ID(st.Header.ClusterId), Term: st.RaftTerm, Tool: t.o.Tool,
		Versions: Versions{Server: st.Version, Storage: st.StorageVersion}}
	t.m.Source.ID = ID(st.Header.MemberId)
	for _, p := range list.Members {
		m := Member{ID: ID(p.ID), Name: p.Name, PeerURLs: p.PeerURLs, ClientURLs: p.ClientURLs, Learner: p.IsLearner}
		if t.m.Members = append(t.m.Members, m); p.ID == st.Header.MemberId {
			t.m.Source = m
		}
	}
	return nil
}

// caused prefers the reason why a context ended to the client's words for that.
func caused(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// receive writes the image to a file of its own, durably, and checks the sum that the
// member sends at the end. The returned path exists only when err is nil: half an image
// is nothing to keep.
func (t *taking) receive(ctx context.Context) (path string, err error) {
	var salt [2]byte
	_, _ = rand.Read(salt[:]) // never fails
	t.m.ID = t.o.Cluster + "-" + time.Now().UTC().Format("20060102T150405Z") + "-" + hex.EncodeToString(salt[:])
	t.m.File = t.m.ID + imageSuffix
	path = filepath.Join(t.dir, t.m.ID+partSuffix)
	f, err := t.fs.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", fmt.Errorf("begin the image: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("save the image of %s: %w", t.o.Endpoint, err)
			_ = t.fs.Remove(path) // what this call itself has begun
		}
	}()
	err = t.stream(ctx, f)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = t.fs.SyncDir(t.dir)
	}
	return path, err
}

// stream copies the image. The last 32 bytes are the SHA-256 of all before them.
func (t *taking) stream(ctx context.Context, to io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(stallTimeout, func() {
		cancel(fmt.Errorf("nothing came for %s: ask another member", stallTimeout))
	})
	defer stall.Stop()
	r, err := t.o.Source.Snapshot(ctx)
	if err != nil {
		return caused(ctx, err)
	}
	defer r.Close() //nolint:errcheck // only read
	whole, image := sha256.New(), sha256.New()
	tail := &tailed{to: image}
	buf := make([]byte, chunkBytes)
	for {
		n, err := r.Read(buf)
		stall.Reset(stallTimeout)
		whole.Write(buf[:n])
		tail.write(buf[:n])
		if _, werr := to.Write(buf[:n]); werr != nil {
			return werr
		}
		t.m.Size += int64(n)
		t.o.Progress(Progress{Stage: Receiving, Done: t.m.Size, Total: t.total})
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return caused(ctx, err)
		}
	}
	t.m.Taken = time.Now().UTC().Truncate(time.Second)
	t.m.SHA256 = hex.EncodeToString(whole.Sum(nil))
	if t.m.Size%512 != sha256.Size || string(tail.last) != string(image.Sum(nil)) {
		return fmt.Errorf("the %d bytes that came do not end in their own checksum: try again, or another member", t.m.Size)
	}
	return nil
}

// tailed passes on everything but the last 32 bytes.
type tailed struct {
	to   hash.Hash
	last []byte
}

func (t *tailed) write(p []byte) {
	t.last = append(t.last, p...)
	if more := len(t.last) - sha256.Size; more > 0 {
		t.to.Write(t.last[:more])
		t.last = append(t.last[:0], t.last[more:]...)
	}
}

// prove restores the image and compares the result with the live members.
func (t *taking) prove(ctx context.Context, path string) (err error) {
	t.o.Progress(Progress{Stage: Restoring, Done: t.m.Size, Total: t.m.Size})
	s, err := openScratch(ctx, t.dir, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	t.m.Revision, t.m.Compacted, t.m.Keys = s.revision, s.compacted, s.kv.Len()
	t.m.Versions.Cluster = s.versions.Cluster
	if t.m.Versions.Storage == "" {
		t.m.Versions.Storage = s.versions.Storage
	}
	if t.m.HashKV, err = s.hash(t.m.Compacted); err != nil {
		return err
	}
	t.o.Progress(Progress{Stage: Comparing, Done: t.m.Size, Total: t.m.Size})
	t.m.Witnesses = t.testimony(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return t.judge(s)
}

// unproven keeps an image for a person to look at, under a name that is no backup's.
func (t *taking) unproven(part string, why error) error {
	to := filepath.Join(t.dir, t.m.ID+unprovenSuffix)
	if err := t.rename(part, to); err != nil {
		to = part
	}
	return fmt.Errorf("%w; there is no backup; what came is kept as %s", why, to)
}

// keep gives the image its name, and then writes the manifest, which makes it a backup.
func (t *taking) keep(part string) error {
	data, err := t.m.Encode()
	if err != nil {
		return t.unproven(part, err)
	}
	if err := t.rename(part, filepath.Join(t.dir, t.m.File)); err != nil {
		return t.unproven(part, err)
	}
	path := filepath.Join(t.dir, t.m.ID+manifestSuffix)
	if _, err := t.fs.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("write the manifest: %s is there already", path)
	}
	if err := vfs.WriteFileAtomic(t.fs, path, data, 0o600); err != nil {
		return fmt.Errorf("write the manifest: %w; there is no backup; what came is kept as %s", err, t.m.File)
	}
	return nil
}

// rename never replaces a file: the ID is of this call alone.
func (t *taking) rename(from, to string) error {
	if _, err := t.fs.Stat(to); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s is there already", to)
	}
	if err := t.fs.Rename(from, to); err != nil {
		return err
	}
	return t.fs.SyncDir(t.dir)
}

// old says that a member does not know the question at all.
func old(err error) bool { return status.Code(err) == codes.Unimplemented }

// later says that a member has not come to the revision yet.
func later(err error) bool {
	return errors.Is(err, rpctypes.ErrFutureRev) || err != nil && strings.Contains(err.Error(), "future revision")
}
