//go:build ignore

// This program makes the Go code of the .proto files of rpc/lockpb and
// rpc/electionpb. It needs protoc (Debian: protobuf-compiler), protoc-gen-go and
// protoc-gen-go-grpc in PATH, and runs in the root of the module:
//
//	go run rpc/lockpb/generate.go
//
// etcd's messages are imported from the descriptors that its Go package carries.

package main

import (
	"log"
	"os"
	"os/exec"
	"path/filepath"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/versionpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

func main() {
	dir, err := os.MkdirTemp("", "protoset")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	var set descriptorpb.FileDescriptorSet
	collect(pb.File_rpc_proto, "rpc.proto", &set, map[string]bool{})
	raw, err := proto.Marshal(&set)
	if err != nil {
		log.Fatal(err)
	}
	file := filepath.Join(dir, "etcd.pb")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		log.Fatal(err)
	}
	for _, f := range []string{"rpc/lockpb/v3lock.proto", "rpc/electionpb/v3election.proto"} {
		c := exec.Command("protoc", "--descriptor_set_in="+file, "--proto_path=.",
			"--go_out=.", "--go_opt=paths=source_relative", "--go-grpc_out=.", "--go-grpc_opt=paths=source_relative", f)
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		if err := c.Run(); err != nil {
			log.Fatalf("protoc %s: %v", f, err)
		}
	}
}

// renamed are files that etcd's rpc.proto imports under another name than the one
// that their Go packages have registered.
var renamed = map[string]protoreflect.FileDescriptor{
	"etcd/api/mvccpb/kv.proto":         mvccpb.File_kv_proto,
	"etcd/api/authpb/auth.proto":       authpb.File_auth_proto,
	"etcd/api/versionpb/version.proto": versionpb.File_version_proto,
}

// collect adds a file and all that it imports, imports first.
func collect(f protoreflect.FileDescriptor, path string, set *descriptorpb.FileDescriptorSet, seen map[string]bool) {
	if seen[path] {
		return
	}
	seen[path] = true
	for i := range f.Imports().Len() {
		im := f.Imports().Get(i).FileDescriptor
		name := im.Path()
		if r := renamed[name]; r != nil {
			im = r
		}
		collect(im, name, set, seen)
	}
	d := protodesc.ToFileDescriptorProto(f)
	d.Name = proto.String(path)
	set.File = append(set.File, d)
}
