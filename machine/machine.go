package machine

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"

	"theseus/auth"
	"theseus/backend"
	"theseus/lease"
	"theseus/member"
	"theseus/mvcc"
	"theseus/version"
)

// The buckets that belong to the machine itself; the other rooms name theirs.
const (
	BucketMeta  backend.Bucket = "meta"
	BucketAlarm backend.Bucket = "alarm"
)

var (
	keyIndex     = []byte("consistent_index")
	keyTerm      = []byte("term")
	keyConfState = []byte("confState")
	keyStorage   = []byte("storageVersion")
)

// buckets is every bucket that etcd makes at its start.
var buckets = []backend.Bucket{
	"key", BucketMeta, "lease", BucketAlarm, auth.BucketAuth, auth.BucketUsers, auth.BucketRoles,
	member.BucketMembers, member.BucketRemoved, member.BucketCluster,
}

// Defaults of Options.
const (
	DefaultQuotaBytes  = 2 << 30
	DefaultMinLeaseTTL = 2
	DefaultMaxLearners = 1
)

// Options says what the machine works on and what it may not know by itself.
type Options struct {
	Backend *backend.Backend
	SelfID  uint64

	// V2 is the v2 store JSON of the newest usable .snap and V2Index its raft index;
	// nil and 0 when there is none.
	V2      []byte
	V2Index uint64
	// NoReplay says that no log will be handed over (offline tools): membership is
	// taken from the database as it is.
	NoReplay bool

	// ServerVersion is what this member can be. Default version.Current.
	ServerVersion version.Version
	// MinLeaseTTL in seconds. Default 2.
	MinLeaseTTL int64
	// MaxLearners bounds learners. Default 1. It must be equal on all members.
	MaxLearners int
	// QuotaBytes bounds the db file: 0 means 2 GiB, negative no bound.
	QuotaBytes int64
	// DBSize is the size of the db file in bytes. Default Backend.Size. It is called
	// for every put and must be cheap.
	DBSize func() int64
	// PersistCheckpoints stores lease checkpoints below cluster version 3.6 too.
	PersistCheckpoints bool
	// StripRanges reports whether a member up to 3.6 is in the cluster: such members
	// strip ranges from write transactions, so we must (interop, trap 1). Default: no.
	StripRanges func() bool
	// HashPassword hashes a plain password that an old member proposed. Default
	// auth.HashPassword with its default cost.
	HashPassword func(password string) ([]byte, error)
	// ValueBudgetBytes is mvcc's.
	ValueBudgetBytes int64
}

func (o *Options) fill() {
	if o.ServerVersion.IsZero() {
		o.ServerVersion = version.Current
	}
	if o.MinLeaseTTL == 0 {
		o.MinLeaseTTL = DefaultMinLeaseTTL
	}
	if o.MaxLearners == 0 {
		o.MaxLearners = DefaultMaxLearners
	}
	if o.QuotaBytes == 0 {
		o.QuotaBytes = DefaultQuotaBytes
	}
	if o.DBSize == nil {
		o.DBSize = o.Backend.Size
	}
	if o.StripRanges == nil {
		o.StripRanges = func() bool { return false }
	}
	if o.HashPassword == nil {
		o.HashPassword = func(p string) ([]byte, error) { return auth.HashPassword(p, 0) }
	}
}

// Machine is the state machine. Begin, Apply, End, SetConfState, CompactStep,
// MigrateStorage and SnapshotData belong to one goroutine; the readers (KV, Leases,
// Auth, Members, Alarms, Applied, ReadTxn, the Checks, QuotaAvailable) may be any.
type Machine struct {
	o       Options
	b       *backend.Backend
	kv      *mvcc.Store
	leases  *lease.Store
	auth    *auth.Store
	members *member.Cluster
	alarms  alarms

	// stored is the consistent index: entries up to it have had their effect.
	// position is the last entry handed to Apply; it is behind stored only while an
	// old directory's membership is rebuilt.
	stored     uint64
	storedTerm uint64
	position   position
	replayFrom uint64
	replaying  bool

	// storage is the format of the file, zero for one of 3.4 or older.
	storage atomic.Pointer[version.Version]

	confState     raftpb.ConfState
	haveConfState bool
	confDirty     bool   // confState differs from what the file holds
	confJSON      []byte // what the file holds

	// dropDowngrade says that the file still holds a downgrade that has taken place.
	dropDowngrade bool

	ready bool  // the buckets exist
	open  bool  // inside a unit
	moved bool  // stored has moved in this unit
	fatal error // set once; nothing is applied afterwards

	// Scratch of the one goroutine that applies.
	call       call
	put        pb.PutRequest
	del        pb.DeleteRangeRequest
	txnRequest pb.TxnRequest
	path       []bool
}

// position is read by any goroutine. The term is written first: who reads a new
// index reads its term.
type position struct{ index, term atomic.Uint64 }

func (p *position) set(index, term uint64) {
	p.term.Store(term)
	p.index.Store(index)
}

// Open restores the machine from the backend. It writes nothing. It refuses a
// database that is newer than ServerVersion, or older than the .snap beside it.
func Open(o Options) (*Machine, error) {
	o.fill()
	m := &Machine{o: o, b: o.Backend}
	if err := m.readMeta(); err != nil {
		return nil, err
	}
	if m.stored != 0 && m.stored < o.V2Index {
		return nil, fmt.Errorf("the database is as of index %d, but the newest snapshot is of index %d: it is not the database of this directory, or its %016x.snap.db is missing",
			m.stored, o.V2Index, o.V2Index)
	}
	storage, err := version.DetectStorage(string(m.b.Get(BucketMeta, keyStorage)), m.storedTerm)
	if err != nil && !errors.Is(err, version.ErrStorageUnknown) {
		return nil, err
	}
	m.storage.Store(&storage)
	if err := version.CheckStorage(storage, o.ServerVersion); err != nil {
		return nil, err
	}
	// 3.6 and newer trust their buckets; older ones trust the snapshot and the log.
	m.replaying = !o.NoReplay && storage.Less(version.V3_6)
	if err := m.openRooms(); err != nil {
		return nil, err
	}
	if cv, _ := m.members.Version(); version.CheckServer(o.ServerVersion, cv) != nil {
		return nil, fmt.Errorf("open at server version %s, cluster version %s: %w", o.ServerVersion, cv, version.ErrServerTooLow)
	}
	m.dropDowngrade = m.endedDowngrade()
	m.replayFrom = max(m.stored, o.V2Index)
	if m.replaying {
		m.replayFrom = o.V2Index
	}
	m.position.set(m.replayFrom, m.storedTerm)
	return m, nil
}

func (m *Machine) openRooms() (err error) {
	if m.members, err = member.Open(m.b, member.Options{V2: m.o.V2, Rebuild: m.replaying}); err != nil {
		return err
	}
	if m.leases, err = lease.Open(m.b, lease.Options{MinTTL: m.o.MinLeaseTTL}); err != nil {
		return err
	}
	m.kv, err = mvcc.Open(m.b, mvcc.Options{ValueBudgetBytes: m.o.ValueBudgetBytes, AttachLease: m.leases.Attach})
	if err != nil {
		return err
	}
	if m.auth, err = auth.Open(m.b); err != nil {
		return err
	}
	return m.alarms.load(m.b)
}

// readMeta reads where the last run ended.
func (m *Machine) readMeta() error {
	for _, f := range []struct {
		key []byte
		to  *uint64
	}{{keyIndex, &m.stored}, {keyTerm, &m.storedTerm}} {
		v := m.b.Get(BucketMeta, f.key)
		if v != nil && len(v) != 8 {
			return fmt.Errorf("decode %s/%s: %d bytes, want 8", BucketMeta, f.key, len(v))
		}
		if v != nil {
			*f.to = binary.BigEndian.Uint64(v)
		}
	}
	if v := m.b.Get(BucketMeta, keyConfState); v != nil {
		if err := json.Unmarshal(v, &m.confState); err != nil {
			return fmt.Errorf("decode %s/%s: %w", BucketMeta, keyConfState, err)
		}
		m.haveConfState, m.confJSON = true, append([]byte(nil), v...)
	}
	return nil
}

// ReplayFrom is the index after which Open's caller must hand entries to Apply: the
// applied index, or that of the .snap when the directory is of 3.5 or older and its
// membership must be built again from the log (interop 9.8).
func (m *Machine) ReplayFrom() uint64 { return m.replayFrom }

// Begin opens one backend unit around a batch of entries. It waits while the
// backend is too far behind with its file.
func (m *Machine) Begin() {
	if m.open {
		panic("machine: Begin within a unit")
	}
	m.b.Begin()
	m.open = true
	if m.ready {
		return
	}
	if err := m.b.CreateBuckets(buckets...); err != nil {
		panic(fmt.Sprintf("machine: create buckets: %v", err)) // a unit only notes it
	}
	m.auth.Init()
	m.ready = true
}

// End closes the unit: all of the batch, the applied index with it, reaches the file
// together or not at all.
func (m *Machine) End() {
	if m.moved {
		m.writeIndex()
		m.moved = false
	}
	m.open = false
	m.b.End()
}

// writeIndex notes where we are, in the words of the cluster version: 3.4 and older
// know neither term nor configuration (interop 4.3).
func (m *Machine) writeIndex() {
	m.b.Put(BucketMeta, keyIndex, binary.BigEndian.AppendUint64(nil, m.stored))
	cv, decided := m.members.Version()
	if !decided {
		cv = m.o.ServerVersion // we are giving birth to the cluster
	}
	if m.dropDowngrade {
		m.members.SetDowngrade(member.Downgrade{})
		m.dropDowngrade = false
	}
	if cv.Less(version.V3_5) && m.members.Downgrade().Enabled {
		m.members.HoldDowngrade(m.stored)
	}
	layout := version.LayoutOf(cv)
	if layout.Term {
		m.b.Put(BucketMeta, keyTerm, binary.BigEndian.AppendUint64(nil, m.storedTerm))
		if m.storage.Load().IsZero() {
			m.storage.Store(&version.V3_5)
		}
	}
	if layout.ConfState && m.haveConfState && m.confDirty {
		m.confJSON = confStateJSON(m.confState)
		m.b.Put(BucketMeta, keyConfState, m.confJSON)
		m.confDirty = false
	}
}

// forgetFormat takes out of the file what 3.4 and older do not know.
func (m *Machine) forgetFormat() {
	m.b.Delete(BucketMeta, keyTerm)
	m.b.Delete(BucketMeta, keyConfState)
	m.b.Delete(BucketMeta, keyStorage)
	m.confJSON, m.confDirty = nil, true
	m.storage.Store(&version.Version{})
}

// endedDowngrade reports whether etcd of the target version has run on the directory
// since we noted the downgrade in it. From 3.5 on, etcd ends a downgrade itself.
func (m *Machine) endedDowngrade() bool {
	cv, _ := m.members.Version()
	d := m.members.Downgrade()
	target, err := version.Parse(d.Target)
	return err == nil && d.Enabled && target.Less(version.V3_5) && cv.Less(version.V3_5) && d.Applied != m.stored
}

// SetConfState records raft's configuration: once after the start, and after each
// conf-change entry, in the unit of that entry; outside a unit it makes one of its
// own. While old entries are replayed the file keeps the newer one that it has.
func (m *Machine) SetConfState(cs raftpb.ConfState) {
	m.confState, m.haveConfState = cs, true
	m.confDirty = string(confStateJSON(cs)) != string(m.confJSON)
	if m.open {
		m.moved = m.moved || !m.replaying
		return
	}
	if m.confDirty && !m.replaying {
		m.Begin()
		m.moved = true
		m.End()
	}
}

// ConfState returns the recorded configuration; ok is false when none was.
func (m *Machine) ConfState() (cs raftpb.ConfState, ok bool) { return m.confState, m.haveConfState }

// confStateJSON is the value of meta/confState (interop 4.6).
func confStateJSON(cs raftpb.ConfState) []byte {
	b, err := json.Marshal(cs)
	if err != nil {
		panic(fmt.Sprintf("machine: encode conf state: %v", err)) // numbers and a bool
	}
	return b
}

// Applied returns index and term of the last entry handed to Apply, at first that of
// ReplayFrom; the term is 0 when a directory of 3.4 or older does not know it.
func (m *Machine) Applied() (index, term uint64) {
	index = m.position.index.Load()
	return index, m.position.term.Load()
}

// KV is the reader's side of the keys.
func (m *Machine) KV() *mvcc.Store { return m.kv }

// Leases is the reader's side of the leases.
func (m *Machine) Leases() *lease.Store { return m.leases }

// Auth is the reader's side of users and roles.
func (m *Machine) Auth() *auth.Store { return m.auth }

// Members is the reader's side of membership.
func (m *Machine) Members() *member.Cluster { return m.members }

// Alarms lists the raised alarms, sorted by member and type.
func (m *Machine) Alarms() []*pb.AlarmMember { return m.alarms.list(pb.AlarmType_NONE) }

// SnapshotData returns the v2 JSON as of the applied index.
func (m *Machine) SnapshotData() []byte { return m.members.SnapshotJSON() }

// CompactStep removes about max old records and reports whether more are left.
func (m *Machine) CompactStep(max int) (more bool) {
	m.Begin()
	defer m.End()
	return m.kv.CompactStep(max)
}
