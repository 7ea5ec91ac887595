package api

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Field numbers of InternalRaftRequest, for AppendInternal.
const (
	FieldRange                    = 3
	FieldPut                      = 4
	FieldDeleteRange              = 5
	FieldTxn                      = 6
	FieldCompaction               = 7
	FieldLeaseGrant               = 8
	FieldLeaseRevoke              = 9
	FieldAlarm                    = 10
	FieldLeaseCheckpoint          = 11
	FieldHeader                   = 100
	FieldAuthEnable               = 1000
	FieldAuthDisable              = 1011
	FieldAuthenticate             = 1012
	FieldAuthStatus               = 1013
	FieldAuthUserAdd              = 1100
	FieldAuthUserDelete           = 1101
	FieldAuthUserGet              = 1102
	FieldAuthUserChangePassword   = 1103
	FieldAuthUserGrantRole        = 1104
	FieldAuthUserRevokeRole       = 1105
	FieldAuthUserList             = 1106
	FieldAuthRoleList             = 1107
	FieldAuthRoleAdd              = 1200
	FieldAuthRoleDelete           = 1201
	FieldAuthRoleGet              = 1202
	FieldAuthRoleGrantPermission  = 1203
	FieldAuthRoleRevokePermission = 1204
	FieldClusterVersionSet        = 1300
	FieldClusterMemberAttrSet     = 1301
	FieldDowngradeInfoSet         = 1302
)

// AppendInternal appends an InternalRaftRequest around one body, of field number
// field, that is already encoded. An empty body is present all the same: that is
// how a cancelled downgrade is told from nothing.
func AppendInternal(dst []byte, field int, body []byte, h *pb.RequestHeader) []byte {
	if field > FieldHeader {
		return appendBody(appendRequestHeader(dst, h), field, body)
	}
	return appendRequestHeader(appendBody(dst, field, body), h)
}

func appendBody(dst []byte, field int, body []byte) []byte {
	dst = appendVarint(dst, uint64(field)<<3|wireBytes)
	dst = appendVarint(dst, uint64(len(body)))
	return append(dst, body...)
}

func sizeRequestHeader(h *pb.RequestHeader) int {
	return sizeUint(1, h.GetID()) + sizeBytes(1, len(validUTF8(h.GetUsername()))) + sizeUint(1, h.GetAuthRevision())
}

func appendRequestHeader(dst []byte, h *pb.RequestHeader) []byte {
	dst = appendVarint(dst, FieldHeader<<3|wireBytes)
	dst = appendVarint(dst, uint64(sizeRequestHeader(h)))
	dst = appendUint(dst, 1, h.GetID())
	dst = appendBytes(dst, 2, validUTF8(h.GetUsername()))
	return appendUint(dst, 3, h.GetAuthRevision())
}

// Kind says what the data of a normal raft entry is.
type Kind int

// The kinds of raft entry data.
const (
	Empty         Kind = iota // no data: the first entry of a leader's term
	Internal                  // an InternalRaftRequest
	LegacyBare                // a LegacyRequest as it stands
	LegacyWrapped             // a LegacyRequest in field 2 of an InternalRaftRequest
)

// String names the kind.
func (k Kind) String() string {
	switch k {
	case Empty:
		return "empty"
	case Internal:
		return "internal"
	case LegacyBare:
		return "legacy"
	case LegacyWrapped:
		return "wrapped legacy"
	}
	return fmt.Sprintf("Kind(%d)", int(k))
}

// Classify tells which kind data is without decoding it (interop D.6). A bare
// LegacyRequest always has its method in field 2, which InternalRaftRequest once
// used for a wrapped one and now reserves; protobuf would read the rest of a bare
// one as a put and a range. Classify fails only on data that is no message at all.
func Classify(data []byte) (Kind, error) {
	kind := Internal
	if len(data) == 0 {
		kind = Empty
	}
	r := reader{rest: data}
	for r.next() {
		if r.tag != fieldLegacy {
			continue
		}
		kind = LegacyWrapped
		if isMethod(r.buf) {
			kind = LegacyBare
		}
	}
	if r.bad {
		return Empty, fmt.Errorf("classify raft entry: %w", errMalformed)
	}
	return kind, nil
}

const fieldLegacy = 2<<3 | wireBytes

func isMethod(b []byte) bool {
	switch string(b) {
	case "PUT", "POST", "DELETE", "QGET", "SYNC", "GET", "HEAD":
		return true
	}
	return false
}
