package member

import (
	"crypto/sha1" //nolint:gosec // the ids of etcd are made of it; nothing is protected by it
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
)

// MemberID is the id of a member with these peer URLs: of a new cluster with its
// token and unix 0, or of a member added later with an empty token and the unix time
// in seconds (interop 6.8).
func MemberID(peerURLs []string, token string, unix int64) uint64 {
	h := sha1.New() //nolint:gosec
	for _, u := range slices.Sorted(slices.Values(peerURLs)) {
		h.Write([]byte(u))
	}
	h.Write([]byte(token))
	if unix != 0 {
		h.Write(strconv.AppendInt(nil, unix, 10))
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// ClusterID is the id of a cluster that begins with these members.
func ClusterID(memberIDs []uint64) uint64 {
	h := sha1.New() //nolint:gosec
	for _, id := range slices.Sorted(slices.Values(memberIDs)) {
		h.Write(binary.BigEndian.AppendUint64(nil, id))
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}

func hexID(id uint64) string { return strconv.FormatUint(id, 16) }

// parseID reads what hexID writes, and nothing else: two spellings of one id would
// be two members.
func parseID(s string) (uint64, error) {
	id, err := strconv.ParseUint(s, 16, 64)
	if err == nil && hexID(id) != s {
		err = fmt.Errorf("%q is not how an id is written", s)
	}
	return id, err
}
