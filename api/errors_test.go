package api

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// table is every error of the package by name, which TestErrorTableIsWhole compares
// with the source.
var table = map[string]error{
	"ErrEmptyKey": ErrEmptyKey, "ErrKeyNotFound": ErrKeyNotFound, "ErrValueProvided": ErrValueProvided, "ErrLeaseProvided": ErrLeaseProvided,
	"ErrTooManyOps": ErrTooManyOps, "ErrDuplicateKey": ErrDuplicateKey, "ErrInvalidClientAPIVersion": ErrInvalidClientAPIVersion,
	"ErrInvalidSortOption": ErrInvalidSortOption, "ErrCompacted": ErrCompacted, "ErrFutureRev": ErrFutureRev, "ErrNoSpace": ErrNoSpace,
	"ErrLeaseNotFound": ErrLeaseNotFound, "ErrLeaseExist": ErrLeaseExist, "ErrLeaseTTLTooLarge": ErrLeaseTTLTooLarge,
	"ErrWatchCanceled": ErrWatchCanceled, "ErrMemberExist": ErrMemberExist, "ErrPeerURLExist": ErrPeerURLExist,
	"ErrMemberNotEnoughStarted": ErrMemberNotEnoughStarted, "ErrMemberBadURLs": ErrMemberBadURLs, "ErrMemberNotFound": ErrMemberNotFound,
	"ErrMemberNotLearner": ErrMemberNotLearner, "ErrLearnerNotReady": ErrLearnerNotReady, "ErrTooManyLearners": ErrTooManyLearners,
	"ErrClusterIDMismatch": ErrClusterIDMismatch, "ErrNotSupportedForLearner": ErrNotSupportedForLearner, "ErrBadLeaderTransferee": ErrBadLeaderTransferee,
	"ErrRequestTooLarge": ErrRequestTooLarge, "ErrTooManyRequests": ErrTooManyRequests, "ErrRootUserNotExist": ErrRootUserNotExist,
	"ErrRootRoleNotExist": ErrRootRoleNotExist, "ErrUserAlreadyExist": ErrUserAlreadyExist, "ErrUserEmpty": ErrUserEmpty,
	"ErrUserNotFound": ErrUserNotFound, "ErrRoleAlreadyExist": ErrRoleAlreadyExist, "ErrRoleNotFound": ErrRoleNotFound, "ErrRoleEmpty": ErrRoleEmpty,
	"ErrAuthFailed": ErrAuthFailed, "ErrPermissionNotGiven": ErrPermissionNotGiven, "ErrPermissionDenied": ErrPermissionDenied,
	"ErrRoleNotGranted": ErrRoleNotGranted, "ErrPermissionNotGranted": ErrPermissionNotGranted, "ErrAuthNotEnabled": ErrAuthNotEnabled,
	"ErrInvalidAuthToken": ErrInvalidAuthToken, "ErrInvalidAuthMgmt": ErrInvalidAuthMgmt, "ErrAuthOldRevision": ErrAuthOldRevision,
	"ErrNoPasswordUser": ErrNoPasswordUser, "ErrNoLeader": ErrNoLeader, "ErrNotLeader": ErrNotLeader, "ErrLeaderChanged": ErrLeaderChanged,
	"ErrNotCapable": ErrNotCapable, "ErrStopped": ErrStopped, "ErrTimeout": ErrTimeout, "ErrTimeoutDueToLeaderFail": ErrTimeoutDueToLeaderFail,
	"ErrTimeoutDueToConnectionLost": ErrTimeoutDueToConnectionLost, "ErrTimeoutWaitAppliedIndex": ErrTimeoutWaitAppliedIndex,
	"ErrUnhealthy": ErrUnhealthy, "ErrCorrupt": ErrCorrupt, "ErrFenced": ErrFenced, "ErrCanceled": ErrCanceled, "ErrDeadlineExceeded": ErrDeadlineExceeded,
	"ErrWrongDowngradeVersionFormat": ErrWrongDowngradeVersionFormat, "ErrInvalidDowngradeTargetVersion": ErrInvalidDowngradeTargetVersion,
	"ErrClusterVersionUnavailable": ErrClusterVersionUnavailable, "ErrDowngradeInProcess": ErrDowngradeInProcess,
	"ErrNoInflightDowngrade": ErrNoInflightDowngrade, "ErrUnknownMethod": ErrUnknownMethod,
}

func TestErrorTableIsWhole(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	ast.Inspect(f, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(spec.Names[0].Name, "Err") {
			found++
			if table[spec.Names[0].Name] == nil {
				t.Errorf("%s is not in the test's table", spec.Names[0].Name)
			}
		}
		return true
	})
	if found != len(table) {
		t.Errorf("the source has %d errors, the test %d", found, len(table))
	}
}

// TestErrorsAgainstClient asks etcd's client library what it makes of each text.
func TestErrorsAgainstClient(t *testing.T) {
	onWire := map[error]codes.Code{ErrMemberNotEnoughStarted: codes.Unknown, ErrTooManyRequests: codes.Unknown}
	foreign := map[error]bool{ErrFenced: true, ErrNoPasswordUser: true, ErrUnknownMethod: true}
	// The library declares these without listing them among what it translates.
	unlisted := map[error]error{
		ErrDeadlineExceeded: rpctypes.ErrGRPCDeadlineExceeded, ErrWatchCanceled: rpctypes.ErrGRPCWatchCanceled,
		ErrPermissionNotGiven: rpctypes.ErrGRPCPermissionNotGiven, ErrCanceled: rpctypes.ErrGRPCCanceled,
		ErrTimeoutWaitAppliedIndex: rpctypes.ErrGRPCTimeoutWaitAppliedIndex, ErrInvalidClientAPIVersion: rpctypes.ErrGRPCInvalidClientAPIVersion,
	}
	seen := map[string]bool{}
	for name, err := range table {
		if seen[err.Error()] {
			t.Errorf("%s: its text is that of another error", name)
		}
		seen[err.Error()] = true
		st, ok := status.FromError(err)
		if !ok || st.Message() != err.Error() || st.Code() != CodeOf(err) {
			t.Errorf("%s: status %v, code %v", name, st, CodeOf(err))
		}
		if foreign[err] {
			continue
		}
		if theirs := unlisted[err]; theirs != nil {
			if want := status.Convert(theirs); want.Message() != st.Message() || want.Code() != st.Code() {
				t.Errorf("%s: status %v, want %v", name, st, want)
			}
			continue
		}
		var theirs rpctypes.EtcdError
		if !errors.As(rpctypes.Error(err), &theirs) {
			t.Errorf("%s: etcd's client does not know the text %q", name, err)
			continue
		}
		want := theirs.Code()
		if code, ok := onWire[err]; ok {
			want = code
		}
		if st.Code() != want {
			t.Errorf("%s: code %v, want %v", name, st.Code(), want)
		}
	}
}

func TestCodeOf(t *testing.T) {
	if CodeOf(nil) != codes.OK || CodeOf(errors.New("x")) != codes.Unknown || CodeOf(ErrEmptyKey) != codes.InvalidArgument {
		t.Error("CodeOf is wrong about nil, a foreign error or one of ours")
	}
}
