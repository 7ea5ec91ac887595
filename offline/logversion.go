package offline

import (
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/versionpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"theseus/api"
	"theseus/internal/vfs"
	"theseus/snap"
	"theseus/version"
	"theseus/wal"
)

// newestSnapshot is the newest snapshot that both the log and the snap folder know:
// where a member starts from. It is the zero snapshot when there is none.
func newestSnapshot(snaps []snap.ID, logged []wal.Snapshot) wal.Snapshot {
	for _, id := range snaps { // newest first
		for _, s := range logged {
			if s.Index == id.Index && s.Term == id.Term {
				return s
			}
		}
	}
	return wal.Snapshot{}
}

// logVersion is the lowest version that can read the entries behind the newest
// snapshot (interop 2.13).
func logVersion(dataDir string) (version.Version, error) {
	dir := walDir(dataDir, "")
	logged, err := wal.Snapshots(dir, wal.Options{})
	if err != nil {
		return version.Version{}, err
	}
	snaps, err := snap.Open(vfs.OS, snapDir(dataDir))
	if err != nil {
		return version.Version{}, err
	}
	ids, err := snaps.List()
	if err != nil {
		return version.Version{}, err
	}
	c, err := wal.Read(dir, newestSnapshot(ids, logged), wal.Options{})
	if err != nil {
		return version.Version{}, err
	}
	need := version.Min
	for _, e := range c.Entries {
		v, err := entryVersion(e)
		if err != nil {
			return need, fmt.Errorf("entry %d: %w", e.Index, err)
		}
		need = higher(need, v)
	}
	return need, nil
}

func higher(a, b version.Version) version.Version {
	if a.Less(b) {
		return b
	}
	return a
}

// entryVersion is the first minor that knows everything in an entry. v2 requests are
// older than all of them.
func entryVersion(e raftpb.Entry) (version.Version, error) {
	switch {
	case e.Type == raftpb.EntryConfChangeV2:
		return version.V3_4, nil
	case e.Type != raftpb.EntryNormal || len(e.Data) == 0:
		return version.Min, nil
	}
	kind, err := api.Classify(e.Data)
	if err != nil {
		return version.Version{}, err
	}
	if kind != api.Internal {
		return version.Min, nil
	}
	var r etcdserverpb.InternalRaftRequest
	if err := proto.Unmarshal(e.Data, &r); err != nil {
		return version.Version{}, err
	}
	return messageVersion(r.ProtoReflect())
}

// messageVersion is the highest version that etcd's descriptors name for a message,
// the fields that are set in it, and their enum values; elements of lists are not
// looked at, as etcd does not.
func messageVersion(m protoreflect.Message) (need version.Version, err error) {
	need, err = annotated(m.Descriptor(), versionpb.E_EtcdVersionMsg)
	if err != nil {
		return need, err
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		var found version.Version
		if found, err = fieldVersion(f, v); err == nil {
			need = higher(need, found)
		}
		return err == nil
	})
	return need, err
}

func fieldVersion(f protoreflect.FieldDescriptor, v protoreflect.Value) (version.Version, error) {
	need, err := annotated(f, versionpb.E_EtcdVersionField)
	if err != nil || f.IsList() || f.IsMap() {
		return need, err
	}
	var inner version.Version
	switch {
	case f.Message() != nil:
		inner, err = messageVersion(v.Message())
	case f.Enum() != nil:
		if inner, err = annotated(f.Enum(), versionpb.E_EtcdVersionEnum); err != nil {
			return need, err
		}
		need = higher(need, inner)
		value := f.Enum().Values().ByNumber(v.Enum())
		if value == nil {
			return need, fmt.Errorf("%s has the unknown value %d", f.FullName(), v.Enum())
		}
		inner, err = annotated(value, versionpb.E_EtcdVersionEnumValue)
	}
	return higher(need, inner), err
}

// annotated reads one version option; without it everything from 3.0 on will do.
func annotated(d protoreflect.Descriptor, option protoreflect.ExtensionType) (version.Version, error) {
	text, _ := proto.GetExtension(d.Options(), option).(string)
	if text == "" {
		return version.Min, nil
	}
	return version.Parse(text)
}
