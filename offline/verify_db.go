package offline

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/raft/v3/raftpb"

	"theseus/api"
	"theseus/auth"
	"theseus/backend"
	"theseus/lease"
	"theseus/member"
	"theseus/version"
)

// db checks the content of the database, and its place in the log. Its pages were
// checked when it was opened.
func (v *verifier) db(path string, b *backend.Backend) error {
	if err := v.records(path, b); err != nil {
		return err
	}
	if _, err := lease.Open(b, lease.Options{}); err != nil {
		v.damaged(path, "leases: %v", err)
	}
	if _, err := auth.Open(b); err != nil {
		v.damaged(path, "users and roles: %v", err)
	}
	storage := v.storage(path, b)
	v.membership(path, b, storage)
	return v.position(path, b)
}

// records decodes every record of bucket key.
func (v *verifier) records(path string, b *backend.Backend) error {
	found, err := count(b)
	if err != nil {
		v.damaged(path, "bucket key: %v", err)
		return nil
	}
	v.report.Summary.Revision, v.report.Summary.Keys = found.revision, found.keys
	var bad error
	err = b.Scan(bucketKey, nil, nil, func(k, value []byte) bool {
		bad = checkRecord(k, value)
		return bad == nil
	})
	if bad != nil {
		v.damaged(path, "bucket key: %v", bad)
	}
	return err
}

// checkRecord compares a record with its revision. The mark of a restore with
// --bump-revision has no bytes.
func checkRecord(k, value []byte) error {
	main, sub, deleted, err := parseRev(k)
	if err != nil || len(value) == 0 {
		return err
	}
	var kv mvccpb.KeyValue
	if err := api.DecodeKV(value, &kv); err != nil {
		return err
	}
	switch {
	case deleted:
		return nil
	case kv.ModRevision != main:
		return fmt.Errorf("the record of revision %d/%d calls itself %d", main, sub, kv.ModRevision)
	case kv.CreateRevision > main || kv.CreateRevision < 1 || kv.Version < 1:
		return fmt.Errorf("the record of revision %d/%d has create revision %d and version %d", main, sub, kv.CreateRevision, kv.Version)
	}
	return nil
}

// storage returns the storage version, zero if it cannot be told.
func (v *verifier) storage(path string, b *backend.Backend) version.Version {
	term, err := number(b, keyTerm)
	if err != nil {
		v.damaged(path, "%v", err)
		return version.Version{}
	}
	found, err := version.DetectStorage(string(b.Get(bucketMeta, keyStorageVersion)), term)
	if errors.Is(err, version.ErrStorageUnknown) {
		return version.Version{} // 3.4 or older
	}
	if err != nil {
		v.damaged(path, "%v", err)
		return version.Version{}
	}
	v.report.Summary.Storage = found.String()
	if err := version.CheckStorage(found, version.Current); err != nil {
		v.add(finding{
			File: path, Offset: -1, What: "storage " + err.Error(),
			Do: "start it with the version that wrote it, or a newer one",
		})
	}
	return found
}

// membership checks who the database takes for members. Up to 3.5 nobody relied on
// it, and it may be wrong there.
func (v *verifier) membership(path string, b *backend.Backend, storage version.Version) {
	c, err := member.Open(b, member.Options{})
	if err != nil {
		v.damaged(path, "members: %v", err)
		return
	}
	if storage.Less(version.V3_6) || v.contents == nil {
		return
	}
	if _, there := c.Member(v.memberID); !there && !c.Removed(v.memberID) {
		v.damaged(path, "member %s, whose log this is, is not among the members of the database", hexID(v.memberID))
	}
	raw := b.Get(bucketMeta, keyConfState)
	if raw == nil {
		return
	}
	var cs raftpb.ConfState
	if err := json.Unmarshal(raw, &cs); err != nil {
		v.damaged(path, "meta/confState: %v", err)
		return
	}
	var voters, learners []uint64
	for _, m := range c.Members() {
		if m.IsLearner {
			learners = append(learners, m.ID)
		} else {
			voters = append(voters, m.ID)
		}
	}
	slices.Sort(cs.Voters)
	slices.Sort(cs.Learners)
	if !slices.Equal(cs.Voters, voters) || !slices.Equal(cs.Learners, learners) {
		v.add(finding{
			File: path, Offset: -1, Harmless: true,
			What: fmt.Sprintf("meta/confState has voters %x and learners %x, the members are voters %x and learners %x",
				cs.Voters, cs.Learners, voters, learners),
			Do: "nothing: etcdutl's restore leaves it so, and nobody starts from it",
		})
	}
}

// position checks the applied index against log and snapshot: what it skips is lost.
func (v *verifier) position(path string, b *backend.Backend) error {
	applied, err := number(b, keyIndex)
	if err != nil {
		v.damaged(path, "%v", err)
		return nil
	}
	v.report.Summary.AppliedIndex = applied
	if v.contents == nil {
		return nil
	}
	if last := v.lastIndex(); applied > last {
		v.damaged(path, "it has applied entry %d, but the log ends at %d: they are not of the same time", applied, last)
		return nil
	}
	if applied < v.snapshot.Index {
		received := filepath.Join(snapDir(v.dataDir), fmt.Sprintf("%016x.snap.db", v.snapshot.Index))
		if _, err := os.Stat(received); err != nil {
			v.damaged(path, "it has applied entry %d, but the log begins after the snapshot at %d: entries between them are lost",
				applied, v.snapshot.Index)
			return nil
		}
		v.add(finding{
			File: received, Offset: -1, What: fmt.Sprintf("it was received from the leader and is to replace a database at entry %d", applied),
			Do: "nothing: the next start does it", Harmless: true,
		})
		return nil
	}
	v.appliedTerm(path, b, applied)
	return nil
}

// appliedTerm checks that the entry that was applied last is the one in the log.
func (v *verifier) appliedTerm(path string, b *backend.Backend, applied uint64) {
	term, err := number(b, keyTerm)
	if err != nil || term == 0 {
		return // 3.4 or older, or said already
	}
	want := v.snapshot.Term
	if applied > v.snapshot.Index {
		want = v.contents.Entries[applied-v.snapshot.Index-1].Term
	}
	if term != want {
		v.damaged(path, "it has applied entry %d of term %d, which the log has from term %d", applied, term, want)
	}
}
