package ctl

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"theseus/printer"
)

// hints say what to try next about the errors of a server.
var hints = []struct {
	err  error
	next string
}{
	{rpctypes.ErrCompacted, "The history before that revision is gone: leave --rev out, or take the revision of a fresh get."},
	{rpctypes.ErrFutureRev, "That revision does not exist yet: `NAME endpoint status -w json` shows the current one."},
	{rpctypes.ErrNoSpace, "The database is full: `NAME compaction <revision> --physical`, `NAME defrag`, then `NAME alarm disarm`."},
	{rpctypes.ErrLeaseNotFound, "The lease has expired or never was: `NAME lease list` shows those that are."},
	{rpctypes.ErrLeaseTTLTooLarge, "A lease may last at most 9000000000 seconds."},
	{rpctypes.ErrEmptyKey, "Name a key; --prefix or --from-key with \"\" means every key."},
	{rpctypes.ErrKeyNotFound, "With --ignore-value or --ignore-lease the key has to be there already."},
	{rpctypes.ErrDuplicateKey, "A transaction may change a key only once."},
	{rpctypes.ErrTooManyOps, "Split the transaction, or raise the server's --max-txn-ops."},
	{rpctypes.ErrRequestTooLarge, "Make the request smaller, or raise the server's --max-request-bytes."},
	{rpctypes.ErrMemberNotFound, "`NAME member list` shows the ids of the members."},
	{rpctypes.ErrMemberNotLearner, "`NAME member list` shows which members are learners."},
	{rpctypes.ErrMemberLearnerNotReady, "Wait until the learner has caught up: compare the raft applied index in `NAME endpoint status --cluster`."},
	{rpctypes.ErrTooManyLearners, "Promote or remove the learner that is there: `NAME member list`."},
	{rpctypes.ErrMemberNotEnoughStarted, "Start the members that are down first: `NAME endpoint health --cluster`."},
	{rpctypes.ErrPeerURLExist, "Another member has this peer URL: `NAME member list`."},
	{rpctypes.ErrUnhealthy, "Some member is down: `NAME endpoint health --cluster`."},
	{rpctypes.Error(rpctypes.ErrGRPCNotSupportedForLearner), "A learner serves only serializable reads: send this to a voting member with --endpoints."},
	{rpctypes.ErrUserEmpty, "Authentication is on: say who you are with --user."},
	{rpctypes.ErrAuthFailed, "Check --user and --password."},
	{rpctypes.ErrPermissionDenied, "`NAME user get --detail <user>`, run by root, shows what a user may do."},
	{rpctypes.ErrRootUserNotExist, "Make the user first: `NAME user add root`."},
	{rpctypes.ErrUserNotFound, "`NAME user list` shows the users."},
	{rpctypes.ErrUserAlreadyExist, "`NAME user passwd` changes the password of a user."},
	{rpctypes.ErrRoleNotFound, "`NAME role list` shows the roles."},
	{rpctypes.ErrRoleAlreadyExist, "`NAME role get` shows what the role permits."},
	{rpctypes.ErrAuthNotEnabled, "Leave --user out, or turn authentication on with `NAME auth enable`."},
	{rpctypes.ErrInvalidAuthToken, "The token is not the server's, or is too old: get a new one."},
	{rpctypes.ErrNoLeader, "The cluster has no leader now: `NAME endpoint status --cluster` shows which members answer."},
	{rpctypes.ErrTimeout, "The cluster is slow or has no majority: `NAME endpoint health --cluster`."},
	{rpctypes.ErrBadLeaderTransferee, "`NAME member list` shows the ids of the members; a learner cannot lead."},
	{rpctypes.ErrCorrupt, "A member's data differs from the others': compare `NAME endpoint hashkv --cluster`, and replace that member."},
	{rpctypes.ErrInvalidDowngradeTargetVersion, "The target is one minor below the cluster version, as in 3.6 for 3.7."},
	{rpctypes.ErrWrongDowngradeVersionFormat, "Write the target as major.minor, as in 3.6."},
	{rpctypes.ErrDowngradeInProcess, "`NAME downgrade cancel` ends the downgrade that is under way."},
	{errGivenTwice, "Leave one of them out."},
	{errExpired, "The server did not hear from us in time; nothing is held any more."},
	{printer.ErrUnknownFormat, "The formats are fields, json, protobuf, simple and table."},
	{fs.ErrNotExist, "Check the path."},
	{fs.ErrPermission, "Check who may read and write there."},
}

// hint is the line that follows an error under our own name; empty if there is
// nothing to say.
func (a *app) hint(err error) string {
	if a.exact {
		return ""
	}
	next := a.hintFor(err)
	return strings.ReplaceAll(next, "NAME", a.name)
}

func (a *app) hintFor(err error) string {
	for _, h := range hints {
		if errors.Is(err, h.err) {
			return h.next
		}
	}
	var u *printer.UnsupportedError
	var e *exitErr
	switch {
	case errors.As(err, &u):
		return "The change is done, if it was one; every command knows -w simple and -w json."
	case a.reason.String() != "":
		return "A server did not answer (" + a.reason.String() + "): is it running there, and is it http or https? Say where with --endpoints."
	case errors.Is(err, context.DeadlineExceeded), status.Code(err) == codes.DeadlineExceeded, status.Code(err) == codes.Unavailable:
		return "No answer from " + strings.Join(a.g.endpoints, ", ") + " in time: raise --command-timeout, or look with `NAME endpoint health --cluster`."
	case status.Code(err) == codes.ResourceExhausted:
		return "Raise --max-request-bytes or --max-recv-bytes."
	case errors.As(err, &e) && e.code == exitConnection:
		return "Check --endpoints, and --cacert, --cert and --key for https."
	case errors.As(err, &e) && e.code == exitBadArgs:
		return seeHelp(a.path)
	}
	return ""
}

func seeHelp(path string) string {
	return "`" + path + " --help` has the arguments, the flags and examples."
}
