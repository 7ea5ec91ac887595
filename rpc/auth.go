package rpc

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// authService is Auth.
type authService struct {
	pb.UnimplementedAuthServer
	f *Front
}

// AuthEnable implements pb.AuthServer.
func (s *authService) AuthEnable(ctx context.Context, r *pb.AuthEnableRequest) (*pb.AuthEnableResponse, error) {
	return s.f.srv.AuthEnable(ctx, r)
}

// AuthDisable implements pb.AuthServer.
func (s *authService) AuthDisable(ctx context.Context, r *pb.AuthDisableRequest) (*pb.AuthDisableResponse, error) {
	return s.f.srv.AuthDisable(ctx, r)
}

// AuthStatus implements pb.AuthServer.
func (s *authService) AuthStatus(ctx context.Context, r *pb.AuthStatusRequest) (*pb.AuthStatusResponse, error) {
	return s.f.srv.AuthStatus(ctx, r)
}

// Authenticate implements pb.AuthServer.
func (s *authService) Authenticate(ctx context.Context, r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	return s.f.srv.Authenticate(ctx, r)
}

// UserAdd implements pb.AuthServer.
func (s *authService) UserAdd(ctx context.Context, r *pb.AuthUserAddRequest) (*pb.AuthUserAddResponse, error) {
	return s.f.srv.UserAdd(ctx, r)
}

// UserGet implements pb.AuthServer.
func (s *authService) UserGet(ctx context.Context, r *pb.AuthUserGetRequest) (*pb.AuthUserGetResponse, error) {
	return s.f.srv.UserGet(ctx, r)
}

// UserList implements pb.AuthServer.
func (s *authService) UserList(ctx context.Context, r *pb.AuthUserListRequest) (*pb.AuthUserListResponse, error) {
	return s.f.srv.UserList(ctx, r)
}

// UserDelete implements pb.AuthServer.
func (s *authService) UserDelete(ctx context.Context, r *pb.AuthUserDeleteRequest) (*pb.AuthUserDeleteResponse, error) {
	return s.f.srv.UserDelete(ctx, r)
}

// UserChangePassword implements pb.AuthServer.
func (s *authService) UserChangePassword(ctx context.Context, r *pb.AuthUserChangePasswordRequest) (*pb.AuthUserChangePasswordResponse, error) {
	return s.f.srv.UserChangePassword(ctx, r)
}

// UserGrantRole implements pb.AuthServer.
func (s *authService) UserGrantRole(ctx context.Context, r *pb.AuthUserGrantRoleRequest) (*pb.AuthUserGrantRoleResponse, error) {
	return s.f.srv.UserGrantRole(ctx, r)
}

// UserRevokeRole implements pb.AuthServer.
func (s *authService) UserRevokeRole(ctx context.Context, r *pb.AuthUserRevokeRoleRequest) (*pb.AuthUserRevokeRoleResponse, error) {
	return s.f.srv.UserRevokeRole(ctx, r)
}

// RoleAdd implements pb.AuthServer.
func (s *authService) RoleAdd(ctx context.Context, r *pb.AuthRoleAddRequest) (*pb.AuthRoleAddResponse, error) {
	return s.f.srv.RoleAdd(ctx, r)
}

// RoleGet implements pb.AuthServer.
func (s *authService) RoleGet(ctx context.Context, r *pb.AuthRoleGetRequest) (*pb.AuthRoleGetResponse, error) {
	return s.f.srv.RoleGet(ctx, r)
}

// RoleList implements pb.AuthServer.
func (s *authService) RoleList(ctx context.Context, r *pb.AuthRoleListRequest) (*pb.AuthRoleListResponse, error) {
	return s.f.srv.RoleList(ctx, r)
}

// RoleDelete implements pb.AuthServer.
func (s *authService) RoleDelete(ctx context.Context, r *pb.AuthRoleDeleteRequest) (*pb.AuthRoleDeleteResponse, error) {
	return s.f.srv.RoleDelete(ctx, r)
}

// RoleGrantPermission implements pb.AuthServer.
func (s *authService) RoleGrantPermission(ctx context.Context, r *pb.AuthRoleGrantPermissionRequest) (*pb.AuthRoleGrantPermissionResponse, error) {
	return s.f.srv.RoleGrantPermission(ctx, r)
}

// RoleRevokePermission implements pb.AuthServer.
func (s *authService) RoleRevokePermission(ctx context.Context, r *pb.AuthRoleRevokePermissionRequest) (*pb.AuthRoleRevokePermissionResponse, error) {
	return s.f.srv.RoleRevokePermission(ctx, r)
}
