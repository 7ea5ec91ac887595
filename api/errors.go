package api

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Error is an error that a client sees: a gRPC code and etcd's exact text. The
// values of this package are returned as they are, never wrapped, by every room
// whose errors reach a client.
type Error struct {
	// Code is the code that arrives on the wire, which is not always the one that
	// etcd's client library declares: see ErrMemberNotEnoughStarted.
	Code codes.Code
	Text string
}

// Error returns the text alone, as a log or a watch's cancel_reason shows it.
func (e *Error) Error() string { return e.Text }

// GRPCStatus makes package status see the code and the text.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code, e.Text) }

// CodeOf returns the gRPC code of err: its own if it is an *Error, OK for nil and
// Unknown for everything else, which is what etcd does with an error it does not know.
func CodeOf(err error) codes.Code {
	if err == nil {
		return codes.OK
	}
	if e, ok := err.(*Error); ok { //nolint:errorlint // an *Error is never wrapped
		return e.Code
	}
	return codes.Unknown
}

func fail(code codes.Code, text string) error { return &Error{Code: code, Text: text} }

// Errors of keys, transactions and revisions.
var (
	ErrEmptyKey                = fail(codes.InvalidArgument, "etcdserver: key is not provided")
	ErrKeyNotFound             = fail(codes.InvalidArgument, "etcdserver: key not found")
	ErrValueProvided           = fail(codes.InvalidArgument, "etcdserver: value is provided")
	ErrLeaseProvided           = fail(codes.InvalidArgument, "etcdserver: lease is provided")
	ErrTooManyOps              = fail(codes.InvalidArgument, "etcdserver: too many operations in txn request")
	ErrDuplicateKey            = fail(codes.InvalidArgument, "etcdserver: duplicate key given in txn request")
	ErrInvalidClientAPIVersion = fail(codes.InvalidArgument, "etcdserver: invalid client api version")
	ErrInvalidSortOption       = fail(codes.InvalidArgument, "etcdserver: invalid sort option")
	ErrCompacted               = fail(codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted")
	ErrFutureRev               = fail(codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision")
	ErrNoSpace                 = fail(codes.ResourceExhausted, "etcdserver: mvcc: database space exceeded")
)

// Errors of leases and watches.
var (
	ErrLeaseNotFound    = fail(codes.NotFound, "etcdserver: requested lease not found")
	ErrLeaseExist       = fail(codes.FailedPrecondition, "etcdserver: lease already exists")
	ErrLeaseTTLTooLarge = fail(codes.OutOfRange, "etcdserver: too large lease TTL")
	ErrWatchCanceled    = fail(codes.Canceled, "etcdserver: watch canceled")
)

// Errors of membership. ErrMemberNotEnoughStarted arrives with code Unknown in
// every version, although etcd's client library declares FailedPrecondition.
var (
	ErrMemberExist            = fail(codes.FailedPrecondition, "etcdserver: member ID already exist")
	ErrPeerURLExist           = fail(codes.FailedPrecondition, "etcdserver: Peer URLs already exists")
	ErrMemberNotEnoughStarted = fail(codes.Unknown, "etcdserver: re-configuration failed due to not enough started members")
	ErrMemberBadURLs          = fail(codes.InvalidArgument, "etcdserver: given member URLs are invalid")
	ErrMemberNotFound         = fail(codes.NotFound, "etcdserver: member not found")
	ErrMemberNotLearner       = fail(codes.FailedPrecondition, "etcdserver: can only promote a learner member")
	ErrLearnerNotReady        = fail(codes.FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader")
	ErrTooManyLearners        = fail(codes.FailedPrecondition, "etcdserver: too many learner members in cluster")
	ErrClusterIDMismatch      = fail(codes.FailedPrecondition, "etcdserver: cluster ID mismatch")
	ErrNotSupportedForLearner = fail(codes.FailedPrecondition, "etcdserver: rpc not supported for learner")
	ErrBadLeaderTransferee    = fail(codes.FailedPrecondition, "etcdserver: bad leader transferee")
)

// Errors of the request's size and rate. ErrTooManyRequests arrives with code
// Unknown in every version, although etcd's client library declares ResourceExhausted.
var (
	ErrRequestTooLarge = fail(codes.InvalidArgument, "etcdserver: request is too large")
	ErrTooManyRequests = fail(codes.Unknown, "etcdserver: too many requests")
)

// Errors of users, roles and permissions.
var (
	ErrRootUserNotExist     = fail(codes.FailedPrecondition, "etcdserver: root user does not exist")
	ErrRootRoleNotExist     = fail(codes.FailedPrecondition, "etcdserver: root user does not have root role")
	ErrUserAlreadyExist     = fail(codes.FailedPrecondition, "etcdserver: user name already exists")
	ErrUserEmpty            = fail(codes.InvalidArgument, "etcdserver: user name is empty")
	ErrUserNotFound         = fail(codes.FailedPrecondition, "etcdserver: user name not found")
	ErrRoleAlreadyExist     = fail(codes.FailedPrecondition, "etcdserver: role name already exists")
	ErrRoleNotFound         = fail(codes.FailedPrecondition, "etcdserver: role name not found")
	ErrRoleEmpty            = fail(codes.InvalidArgument, "etcdserver: role name is empty")
	ErrAuthFailed           = fail(codes.InvalidArgument, "etcdserver: authentication failed, invalid user ID or password")
	ErrPermissionNotGiven   = fail(codes.InvalidArgument, "etcdserver: permission not given")
	ErrPermissionDenied     = fail(codes.PermissionDenied, "etcdserver: permission denied")
	ErrRoleNotGranted       = fail(codes.FailedPrecondition, "etcdserver: role is not granted to the user")
	ErrPermissionNotGranted = fail(codes.FailedPrecondition, "etcdserver: permission is not granted to the role")
	ErrAuthNotEnabled       = fail(codes.FailedPrecondition, "etcdserver: authentication is not enabled")
	ErrInvalidAuthToken     = fail(codes.Unauthenticated, "etcdserver: invalid auth token")
	ErrInvalidAuthMgmt      = fail(codes.InvalidArgument, "etcdserver: invalid auth management")
	ErrAuthOldRevision      = fail(codes.InvalidArgument, "etcdserver: revision of auth store is old")
	// ErrNoPasswordUser is not in etcd's table, so it arrives as Unknown.
	ErrNoPasswordUser = fail(codes.Unknown, "auth: authentication failed, password was given for no password user")
)

// Errors of leadership, time and health.
var (
	ErrNoLeader                   = fail(codes.Unavailable, "etcdserver: no leader")
	ErrNotLeader                  = fail(codes.FailedPrecondition, "etcdserver: not leader")
	ErrLeaderChanged              = fail(codes.Unavailable, "etcdserver: leader changed")
	ErrNotCapable                 = fail(codes.FailedPrecondition, "etcdserver: not capable")
	ErrStopped                    = fail(codes.Unavailable, "etcdserver: server stopped")
	ErrTimeout                    = fail(codes.Unavailable, "etcdserver: request timed out")
	ErrTimeoutDueToLeaderFail     = fail(codes.Unavailable, "etcdserver: request timed out, possibly due to previous leader failure")
	ErrTimeoutDueToConnectionLost = fail(codes.Unavailable, "etcdserver: request timed out, possibly due to connection lost")
	ErrTimeoutWaitAppliedIndex    = fail(codes.Unavailable, "etcdserver: request timed out, waiting for the applied index took too long")
	ErrUnhealthy                  = fail(codes.Unavailable, "etcdserver: unhealthy cluster")
	ErrCorrupt                    = fail(codes.DataLoss, "etcdserver: corrupt cluster")
	// ErrFenced is ours: etcd serves wrong data, or stops the whole cluster.
	ErrFenced           = fail(codes.Unavailable, "etcdserver: member is fenced: its data differs from the quorum's")
	ErrCanceled         = fail(codes.Canceled, "etcdserver: request canceled")
	ErrDeadlineExceeded = fail(codes.DeadlineExceeded, "etcdserver: context deadline exceeded")
)

// Errors of downgrades, and of an enum value that names no method.
var (
	ErrWrongDowngradeVersionFormat   = fail(codes.InvalidArgument, "etcdserver: wrong downgrade target version format")
	ErrInvalidDowngradeTargetVersion = fail(codes.InvalidArgument, "etcdserver: invalid downgrade target version")
	ErrClusterVersionUnavailable     = fail(codes.FailedPrecondition, "etcdserver: cluster version not found during downgrade")
	ErrDowngradeInProcess            = fail(codes.FailedPrecondition, "etcdserver: cluster has a downgrade job in progress")
	ErrNoInflightDowngrade           = fail(codes.FailedPrecondition, "etcdserver: no inflight downgrade job")
	// ErrUnknownMethod is not in etcd's table, so it arrives as Unknown.
	ErrUnknownMethod = fail(codes.Unknown, "etcdserver: unknown method")
)
