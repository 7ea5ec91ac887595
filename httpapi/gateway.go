package httpapi

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"go.etcd.io/etcd/api/v3/etcdserverpb/gw"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// gateway serves the gRPC API as JSON, in the mapping that etcd's clients of it
// know: names as in the .proto files, zero fields left out, unknown ones ignored.
func gateway(conn *grpc.ClientConn) (http.Handler, error) {
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.HTTPBodyMarshaler{Marshaler: &runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true},
			UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: true},
		}}),
	)
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		gw.RegisterKVHandler, gw.RegisterWatchHandler, gw.RegisterLeaseHandler,
		gw.RegisterClusterHandler, gw.RegisterMaintenanceHandler, gw.RegisterAuthHandler,
	} {
		if err := register(context.Background(), mux, conn); err != nil {
			return nil, err
		}
	}
	for path, method := range recipes {
		if err := recipe(mux, conn, path, method); err != nil {
			return nil, err
		}
	}
	return mux, nil
}

// recipes are the lock and election services, for which the api module brings no
// gateway; all but observe, which is a stream, are plain calls.
var recipes = map[string]string{
	"/v3/lock/lock": "v3lockpb.Lock.Lock", "/v3/lock/unlock": "v3lockpb.Lock.Unlock",
	"/v3/election/campaign": "v3electionpb.Election.Campaign", "/v3/election/proclaim": "v3electionpb.Election.Proclaim",
	"/v3/election/leader": "v3electionpb.Election.Leader", "/v3/election/resign": "v3electionpb.Election.Resign",
	"/v3/election/observe": "v3electionpb.Election.Observe",
}

// recipe serves one method by its description, if the member has it.
func recipe(mux *runtime.ServeMux, conn *grpc.ClientConn, path, name string) error {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return nil //nolint:nilerr // a program that embeds no such service serves no such path
	}
	method := d.(protoreflect.MethodDescriptor)
	in, err := protoregistry.GlobalTypes.FindMessageByName(method.Input().FullName())
	if err != nil {
		return err
	}
	out, err := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
	if err != nil {
		return err
	}
	full := "/" + string(method.Parent().FullName()) + "/" + string(method.Name())
	return mux.HandlePath(http.MethodPost, path, func(w http.ResponseWriter, r *http.Request, _ map[string]string) {
		read, write := runtime.MarshalerForRequest(mux, r)
		ctx, err := runtime.AnnotateContext(r.Context(), mux, r, full)
		req, resp := in.New().Interface(), out.New().Interface()
		if err == nil {
			err = read.NewDecoder(r.Body).Decode(req)
			if errors.Is(err, io.EOF) {
				err = nil
			} else if err != nil {
				err = status.Error(codes.InvalidArgument, err.Error())
			}
		}
		if err != nil {
			runtime.HTTPError(ctx, mux, write, w, r, err)
			return
		}
		if method.IsStreamingServer() {
			stream(ctx, mux, write, conn, full, w, r, req, out)
			return
		}
		var md runtime.ServerMetadata
		err = conn.Invoke(ctx, full, req, resp, grpc.Header(&md.HeaderMD), grpc.Trailer(&md.TrailerMD))
		ctx = runtime.NewServerMetadataContext(ctx, md)
		if err != nil {
			runtime.HTTPError(ctx, mux, write, w, r, err)
			return
		}
		runtime.ForwardResponseMessage(ctx, mux, write, w, r, resp)
	})
}

// stream forwards the messages of a server stream, one JSON object a line.
func stream(ctx context.Context, mux *runtime.ServeMux, write runtime.Marshaler, conn *grpc.ClientConn, full string, w http.ResponseWriter, r *http.Request, req proto.Message, out protoreflect.MessageType) {
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, full)
	if err == nil {
		err = s.SendMsg(req)
	}
	if err == nil {
		err = s.CloseSend()
	}
	if err != nil {
		runtime.HTTPError(ctx, mux, write, w, r, err)
		return
	}
	runtime.ForwardResponseStream(ctx, mux, write, w, r, func() (proto.Message, error) {
		m := out.New().Interface()
		return m, s.RecvMsg(m)
	})
}
