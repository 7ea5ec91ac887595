package machine

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"theseus/api"
)

// handler is how one kind of request is applied.
type handler struct {
	// admin requests need role root, whatever else they need.
	admin bool
	// reads change nothing: only the member whose caller waits runs them.
	reads bool
	// apply fills c.res. The error it returns is fatal.
	apply func(m *Machine, c *call) error
}

// fieldVersionTest is a request of etcd's own tests; it does nothing.
const fieldVersionTest = 9900

// handlers has every request of InternalRaftRequest (interop 6.2) but the hot ones,
// which handlerOf finds without it.
var handlers = map[protowire.Number]*handler{
	api.FieldAuthEnable:               {admin: true, apply: (*Machine).authEnable},
	api.FieldAuthDisable:              {admin: true, apply: (*Machine).authDisable},
	api.FieldAuthStatus:               {reads: true, apply: (*Machine).authStatus},
	api.FieldAuthenticate:             {apply: (*Machine).authenticate},
	api.FieldAuthUserAdd:              {admin: true, apply: (*Machine).userAdd},
	api.FieldAuthUserDelete:           {admin: true, apply: (*Machine).userDelete},
	api.FieldAuthUserGet:              {reads: true, apply: (*Machine).userGet},
	api.FieldAuthUserChangePassword:   {admin: true, apply: (*Machine).userChangePassword},
	api.FieldAuthUserGrantRole:        {admin: true, apply: (*Machine).userGrantRole},
	api.FieldAuthUserRevokeRole:       {admin: true, apply: (*Machine).userRevokeRole},
	api.FieldAuthUserList:             {admin: true, reads: true, apply: (*Machine).userList},
	api.FieldAuthRoleList:             {admin: true, reads: true, apply: (*Machine).roleList},
	api.FieldAuthRoleAdd:              {admin: true, apply: (*Machine).roleAdd},
	api.FieldAuthRoleDelete:           {admin: true, apply: (*Machine).roleDelete},
	api.FieldAuthRoleGet:              {reads: true, apply: (*Machine).roleGet},
	api.FieldAuthRoleGrantPermission:  {admin: true, apply: (*Machine).roleGrantPermission},
	api.FieldAuthRoleRevokePermission: {admin: true, apply: (*Machine).roleRevokePermission},
	api.FieldClusterVersionSet:        {apply: (*Machine).versionSet},
	api.FieldClusterMemberAttrSet:     {apply: (*Machine).attributesSet},
	api.FieldDowngradeInfoSet:         {apply: (*Machine).downgradeSet},
	fieldVersionTest:                  {apply: (*Machine).nothing},
}

// hot has the requests with small field numbers.
var hot = [...]*handler{
	api.FieldRange:           {reads: true, apply: (*Machine).rangeKeys},
	api.FieldPut:             {apply: (*Machine).putKey},
	api.FieldDeleteRange:     {apply: (*Machine).deleteRange},
	api.FieldTxn:             {apply: (*Machine).txn},
	api.FieldCompaction:      {apply: (*Machine).compact},
	api.FieldLeaseGrant:      {apply: (*Machine).leaseGrant},
	api.FieldLeaseRevoke:     {apply: (*Machine).leaseRevoke},
	api.FieldAlarm:           {apply: (*Machine).alarm},
	api.FieldLeaseCheckpoint: {apply: (*Machine).leaseCheckpoint},
}

// handlerOf returns nil for a field that is no request.
func handlerOf(num protowire.Number) *handler {
	if num < protowire.Number(len(hot)) {
		return hot[num]
	}
	return handlers[num]
}

// header is the header of an answer: the revision, to which the server adds the rest.
func (m *Machine) header() *pb.ResponseHeader {
	rev, _ := m.kv.Revision()
	return &pb.ResponseHeader{Revision: rev}
}

// answer ends a request: with the error, or with what resp makes when somebody waits.
func (c *call) answer(err error, resp func() proto.Message) error {
	c.res.Err = err
	if err == nil && c.mine {
		c.res.Resp = resp()
	}
	return nil
}

// refuse ends a request with an error for its caller.
func (c *call) refuse(err error) error {
	c.res.Err = err
	return nil
}

func (m *Machine) nothing(c *call) error {
	return c.answer(nil, func() proto.Message { return &pb.EmptyResponse{} })
}
