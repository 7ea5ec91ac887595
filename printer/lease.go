package printer

import (
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// LeaseGrant is the answer to the grant of a lease. Its protobuf form, like that
// of the other lease results, is the header alone.
func LeaseGrant(r *clientv3.LeaseGrantResponse) Result {
	return Result{
		simple: func(t *text) { t.printf("lease %016x granted with TTL(%ds)\n", r.ID, r.TTL) },
		fields: func(t *text) {
			fieldsHeader(t, r.ResponseHeader)
			t.lease("ID", int64(r.ID))
			t.field("TTL", r.TTL)
		},
		json:  r,
		proto: r.ResponseHeader,
	}
}

// LeaseRevoke is the answer to the revocation of the lease id.
func LeaseRevoke(id clientv3.LeaseID, r *clientv3.LeaseRevokeResponse) Result {
	return Result{
		simple:   func(t *text) { t.printf("lease %016x revoked\n", id) },
		fields:   headerOnly(r.Header),
		json:     r,
		protoErr: fmt.Sprintf("marshal unsupported for type %T (%v)", r, r),
	}
}

// LeaseKeepAlive is one renewal of a lease.
func LeaseKeepAlive(r *clientv3.LeaseKeepAliveResponse) Result {
	return Result{
		simple: func(t *text) { t.printf("lease %016x keepalived with TTL(%d)\n", r.ID, r.TTL) },
		fields: func(t *text) {
			fieldsHeader(t, r.ResponseHeader)
			t.lease("ID", int64(r.ID))
			t.field("TTL", r.TTL)
		},
		json:  r,
		proto: r.ResponseHeader,
	}
}

// LeaseTimeToLive is what is known of a lease; keys says that its keys were asked for.
func LeaseTimeToLive(r *clientv3.LeaseTimeToLiveResponse, keys bool) Result {
	return Result{
		simple: func(t *text) { simpleTimeToLive(t, r, keys) },
		fields: func(t *text) {
			fieldsHeader(t, r.ResponseHeader)
			t.lease("ID", int64(r.ID))
			t.field("TTL", r.TTL)
			t.field("GrantedTTL", r.GrantedTTL)
			for _, k := range r.Keys {
				t.quoted("Key", k)
			}
		},
		json:  r,
		proto: r.ResponseHeader,
	}
}

func simpleTimeToLive(t *text, r *clientv3.LeaseTimeToLiveResponse, keys bool) {
	if r.GrantedTTL == 0 && r.TTL == -1 {
		t.printf("lease %016x already expired\n", r.ID)
		return
	}
	t.printf("lease %016x granted with TTL(%ds), remaining(%ds)", r.ID, r.GrantedTTL, r.TTL)
	if keys {
		names := make([]string, len(r.Keys))
		for i, k := range r.Keys {
			names[i] = string(k)
		}
		t.printf(", attached keys([%s])", strings.Join(names, " "))
	}
	t.line()
}

// Leases is the list of all leases.
func Leases(r *clientv3.LeaseLeasesResponse) Result {
	return Result{
		simple: func(t *text) {
			t.printf("found %d leases\n", len(r.Leases))
			for _, l := range r.Leases {
				t.printf("%016x\n", l.ID)
			}
		},
		fields: func(t *text) {
			fieldsHeader(t, r.ResponseHeader)
			for _, l := range r.Leases {
				t.lease("ID", int64(l.ID))
			}
		},
		json:  r,
		proto: r.ResponseHeader,
	}
}

// headerOnly is the fields form of answers that hold nothing else.
func headerOnly(h *pb.ResponseHeader) func(*text) {
	return func(t *text) { fieldsHeader(t, h) }
}
