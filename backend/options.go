package backend

import (
	"fmt"
	"strconv"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/zap"
)

// Bucket is the name of a bucket: "key", "meta", "lease", "alarm", "auth",
// "authUsers", "authRoles", "members", "members_removed" or "cluster".
type Bucket string

// MaxKeyBytes is the longest key that the file takes; a longer or an empty key is
// a bug of the caller, and Put panics.
const MaxKeyBytes = bbolt.MaxKeySize

// Options configures Open. The zero value of each field but Path is a default.
type Options struct {
	// Path of the bbolt file. It is created, mode 0600, if it is missing.
	Path   string
	Logger *zap.Logger // nil: no logging
	// LockTimeout is how long Open waits for another process to let go of the
	// file. Default 1s.
	LockTimeout time.Duration
	// FlushInterval is how long the first pending write may wait for its flush.
	// Default 100ms.
	FlushInterval time.Duration
	// FlushOps pending operations start a flush at once. Default 10,000.
	FlushOps int
	// PendingLimitBytes bounds the writes that are not in the file yet; Begin
	// waits when there are more. One unit may exceed it. Default 128 MiB.
	PendingLimitBytes int64
	// MapBytes is the size of the memory map, address space and not memory. bbolt
	// cannot map again while a read transaction is open, and one always is: a file
	// that outgrows the map could not be flushed any more. Default 256 GiB.
	MapBytes int64
	// NoSync leaves out every fsync: for tests and tools that can start over.
	NoSync bool
	// ReadOnly takes a shared lock and never writes; Begin panics.
	ReadOnly bool
	// FreelistType is bbolt's, "hashmap" (default) or "array".
	FreelistType string
	// OnFlush is told how long each flush took, from the flushing goroutine.
	OnFlush func(time.Duration)
	// Fatal is told of a failed write or fsync, after which the file can no
	// longer be trusted and the backend flushes no more. Default: panic.
	Fatal func(error)
}

// withDefaults returns o completed, or an error that names the field.
func (o Options) withDefaults() (Options, error) {
	if o.Path == "" {
		return o, fmt.Errorf("backend: Options.Path is empty")
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.LockTimeout == 0 {
		o.LockTimeout = time.Second
	}
	if o.FlushInterval == 0 {
		o.FlushInterval = 100 * time.Millisecond
	}
	if o.FlushOps == 0 {
		o.FlushOps = 10_000
	}
	if o.PendingLimitBytes == 0 {
		o.PendingLimitBytes = 128 << 20
	}
	if o.MapBytes == 0 && strconv.IntSize == 64 {
		o.MapBytes = 256 << 30
	}
	if o.Fatal == nil {
		o.Fatal = func(err error) { panic(err) }
	}
	switch bbolt.FreelistType(o.FreelistType) {
	case "":
		o.FreelistType = string(bbolt.FreelistMapType)
	case bbolt.FreelistMapType, bbolt.FreelistArrayType:
	default:
		return o, fmt.Errorf("backend: Options.FreelistType %q is neither %q nor %q",
			o.FreelistType, bbolt.FreelistMapType, bbolt.FreelistArrayType)
	}
	return o, nil
}
