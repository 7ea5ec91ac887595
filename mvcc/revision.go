package mvcc

import (
	"encoding/binary"
	"fmt"

	"theseus/backend"
)

// What of the file belongs to this room: bucket "key" with a record for each
// change, and the two marks of compaction in bucket "meta".
const (
	keyBucket  backend.Bucket = "key"
	metaBucket backend.Bucket = "meta"

	revBytes  = 17 // main, '_', sub; big endian
	tombBytes = 18 // and 't' for a tombstone
)

var (
	scheduledKey = []byte("scheduledCompactRev")
	finishedKey  = []byte("finishedCompactRev")
)

// Rev is a revision: the transaction and the change's place within it.
type Rev struct{ Main, Sub int64 }

// stamp is a revision and whether it is a tombstone, in 16 bytes, since there is
// one in memory for every record of the file.
type stamp struct {
	main int64
	sub  uint64 // shifted left by one; bit 0: tombstone
}

func newStamp(r Rev, tomb bool) stamp {
	s := stamp{main: r.Main, sub: uint64(r.Sub) << 1}
	if tomb {
		s.sub |= 1
	}
	return s
}

func (s stamp) tomb() bool { return s.sub&1 != 0 }
func (s stamp) rev() Rev   { return Rev{s.main, int64(s.sub >> 1)} }

// appendKey appends the record's key in the file.
func (s stamp) appendKey(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.main))
	dst = append(dst, '_')
	dst = binary.BigEndian.AppendUint64(dst, s.sub>>1)
	if s.tomb() {
		dst = append(dst, 't')
	}
	return dst
}

// mainKey returns the smallest key in the file of a main revision.
func mainKey(main int64) []byte {
	return stamp{main: max(main, 0)}.appendKey(make([]byte, 0, revBytes))
}

// parseStamp reads a record's key.
func parseStamp(k []byte) (stamp, error) {
	if len(k) != revBytes && (len(k) != tombBytes || k[revBytes] != 't') || k[8] != '_' {
		return stamp{}, fmt.Errorf("bucket %q: key %x is no revision", keyBucket, k)
	}
	s := stamp{int64(binary.BigEndian.Uint64(k)), binary.BigEndian.Uint64(k[9:]) << 1}
	if s.main < 0 || k[9]&0x80 != 0 {
		return stamp{}, fmt.Errorf("bucket %q: revision %x is negative", keyBucket, k)
	}
	if len(k) == tombBytes {
		s.sub |= 1
	}
	return s, nil
}
