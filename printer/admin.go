package printer

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

// message is what the JSON and the protobuf form have in common.
type message = proto.Message

// MoveLeader is the answer to a transfer of leadership.
func MoveLeader(from, to uint64, r *clientv3.MoveLeaderResponse) Result {
	return Result{
		simple: func(t *text) { t.printf("Leadership transferred from %x to %x\n", from, to) },
		json:   r,
		proto:  (*pb.MoveLeaderResponse)(r),
	}
}

// Alarms is the answer to a list of alarms, and to their disarming.
func Alarms(r *clientv3.AlarmResponse) Result {
	m := (*pb.AlarmResponse)(r)
	return Result{
		simple: func(t *text) {
			for _, a := range m.Alarms {
				t.printf("memberID:%d alarm:%s\n", a.MemberID, a.Alarm)
			}
		},
		fields: func(t *text) {
			fieldsHeader(t, m.Header)
			for _, a := range m.Alarms {
				t.id("MemberID", a.MemberID)
				t.field("AlarmType", a.Alarm)
				t.line()
			}
		},
		json:  m,
		proto: m,
	}
}

// Downgrade is the answer to a downgrade request; action is what was asked of a downgrade: "validate", "enable" or "cancel".
func Downgrade(action string, r *clientv3.DowngradeResponse) Result {
	m := (*pb.DowngradeResponse)(r)
	return Result{
		simple: func(t *text) { t.printf("Downgrade %s success, cluster version %s\n", action, m.Version) },
		json:   m,
		proto:  m,
	}
}

// AuthStatus is the answer to the question whether authentication is on.
func AuthStatus(r *clientv3.AuthStatusResponse) Result {
	m := (*pb.AuthStatusResponse)(r)
	return Result{
		simple: func(t *text) {
			t.line("Authentication Status:", m.Enabled)
			t.line("AuthRevision:", m.AuthRevision)
		},
		json:  m,
		proto: m,
	}
}

// RoleAdd is the answer to a new role.
func RoleAdd(role string, r *clientv3.AuthRoleAddResponse) Result {
	m := (*pb.AuthRoleAddResponse)(r)
	return said(m, m.Header, "Role %s created", role)
}

// RoleDelete is the answer to the end of a role.
func RoleDelete(role string, r *clientv3.AuthRoleDeleteResponse) Result {
	m := (*pb.AuthRoleDeleteResponse)(r)
	return said(m, m.Header, "Role %s deleted", role)
}

// RoleGrantPermission is the answer to a new permission.
func RoleGrantPermission(role string, r *clientv3.AuthRoleGrantPermissionResponse) Result {
	m := (*pb.AuthRoleGrantPermissionResponse)(r)
	return said(m, m.Header, "Role %s updated", role)
}

// RoleRevokePermission is the answer to a permission taken away: that of one key
// when end is empty.
func RoleRevokePermission(role, key, end string, r *clientv3.AuthRoleRevokePermissionResponse) Result {
	m := (*pb.AuthRoleRevokePermissionResponse)(r)
	switch end {
	case "":
		return said(m, m.Header, "Permission of key %s is revoked from role %s", key, role)
	case "\x00":
		return said(m, m.Header, "Permission of range [%s, <open ended> is revoked from role %s", key, role)
	}
	return said(m, m.Header, "Permission of range [%s, %s) is revoked from role %s", key, end, role)
}

// RoleGet is what a role permits.
func RoleGet(role string, r *clientv3.AuthRoleGetResponse) Result {
	m := (*pb.AuthRoleGetResponse)(r)
	return Result{
		simple: func(t *text) { simpleRole(t, role, m) },
		fields: func(t *text) {
			fieldsHeader(t, m.Header)
			for _, p := range m.Perm {
				t.printf("\"PermType\" :  %s\n", p.PermType)
				t.quoted("Key", p.Key)
				t.quoted("RangeEnd", p.RangeEnd)
			}
		},
		json:  m,
		proto: m,
	}
}

func simpleRole(t *text, role string, m *pb.AuthRoleGetResponse) {
	t.printf("Role %s\n", role)
	if role == "root" && len(m.Perm) == 0 {
		t.printf("KV Read:\n\t[, <open ended>\nKV Write:\n\t[, <open ended>\n")
		return
	}
	t.line("KV Read:")
	for _, p := range m.Perm {
		if p.PermType == clientv3.PermRead || p.PermType == clientv3.PermReadWrite {
			t.line("\t" + permission(p.Key, p.RangeEnd))
		}
	}
	t.line("KV Write:")
	for _, p := range m.Perm {
		if p.PermType == clientv3.PermWrite || p.PermType == clientv3.PermReadWrite {
			t.line("\t" + permission(p.Key, p.RangeEnd))
		}
	}
}

// permission writes the keys of a permission: a key, or a range, with the prefix
// that the range may stand for.
func permission(key, end []byte) string {
	k, e := string(key), string(end)
	if e == "" {
		return k
	}
	text := fmt.Sprintf("[%s, %s)", k, e)
	if e == "\x00" {
		text = fmt.Sprintf("[%s, <open ended>", k)
	}
	if k != "" && clientv3.GetPrefixRangeEnd(k) == e {
		text += fmt.Sprintf(" (prefix %s)", k)
	}
	return text
}

// RoleList is the list of roles.
func RoleList(r *clientv3.AuthRoleListResponse) Result {
	m := (*pb.AuthRoleListResponse)(r)
	return Result{
		simple: lines(m.Roles),
		fields: func(t *text) {
			fieldsHeader(t, m.Header)
			t.printf("\"Roles\" :")
			for _, name := range m.Roles {
				t.printf(" %q", name)
			}
			t.line()
		},
		json:  m,
		proto: m,
	}
}

// UserAdd is the answer to a new user.
func UserAdd(user string, r *clientv3.AuthUserAddResponse) Result {
	m := (*pb.AuthUserAddResponse)(r)
	return said(m, m.Header, "User %s created", user)
}

// UserDelete is the answer to the end of a user.
func UserDelete(user string, r *clientv3.AuthUserDeleteResponse) Result {
	m := (*pb.AuthUserDeleteResponse)(r)
	return said(m, m.Header, "User %s deleted", user)
}

// UserChangePassword is the answer to a new password.
func UserChangePassword(r *clientv3.AuthUserChangePasswordResponse) Result {
	m := (*pb.AuthUserChangePasswordResponse)(r)
	return said(m, m.Header, "Password updated")
}

// UserGrantRole is the answer to a role given.
func UserGrantRole(user, role string, r *clientv3.AuthUserGrantRoleResponse) Result {
	m := (*pb.AuthUserGrantRoleResponse)(r)
	return said(m, m.Header, "Role %s is granted to user %s", role, user)
}

// UserRevokeRole is the answer to a role taken away.
func UserRevokeRole(user, role string, r *clientv3.AuthUserRevokeRoleResponse) Result {
	m := (*pb.AuthUserRevokeRoleResponse)(r)
	return said(m, m.Header, "Role %s is revoked from user %s", role, user)
}

// UserGet is what a user may be.
func UserGet(user string, r *clientv3.AuthUserGetResponse) Result {
	m := (*pb.AuthUserGetResponse)(r)
	return Result{
		simple: func(t *text) {
			t.printf("User: %s\n", user)
			t.printf("Roles:")
			for _, role := range m.Roles {
				t.printf(" %s", role)
			}
			t.line()
		},
		json:  m,
		proto: m,
	}
}

// UserList is the list of users.
func UserList(r *clientv3.AuthUserListResponse) Result {
	m := (*pb.AuthUserListResponse)(r)
	return Result{simple: lines(m.Users), json: m, proto: m}
}

// said is the result of a change that has one line to say.
func said(m message, h *pb.ResponseHeader, format string, v ...any) Result {
	return Result{
		simple: func(t *text) { t.printf(format+"\n", v...) },
		fields: headerOnly(h),
		json:   m,
		proto:  m,
	}
}

func lines(names []string) func(*text) {
	return func(t *text) {
		for _, name := range names {
			t.line(name)
		}
	}
}
