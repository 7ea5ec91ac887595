// Package printer writes results the way etcdctl 3.7 and etcdutl 3.7 do, byte
// for byte: as text for people (simple, table), as quoted fields, as JSON, or as
// protobuf.
//
// There is one function a response ([Put], [MemberList], [SnapshotStatus], …). It
// returns a [Result], which holds all the forms that the response can take side
// by side; [Printer.Print] picks the one that was asked for:
//
//	p, err := printer.New("json", printer.Options{Out: os.Stdout})
//	err = p.Print(printer.Put(resp))
//
// A form that a result does not have is an [UnsupportedError], found out only
// when the command has done its work, as etcdctl does; what is printed then is
// nothing. Write errors of Out are returned.
//
// The JSON is that of the Go structures, field for field as etcd's are tagged, so
// it differs from the JSON of etcd's HTTP gateway: integers are numbers and bytes
// are base64.
package printer
