package h2

import (
	"bytes"
	"compress/gzip"
	"io"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	gzipReaders sync.Pool
	gzipWriters = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}
)

// gunzip decompresses a message, up to max bytes. Texts are grpc-go's.
func gunzip(b []byte, max int) ([]byte, *status.Status) {
	r, _ := gzipReaders.Get().(*gzip.Reader)
	var err error
	if r == nil {
		r, err = gzip.NewReader(bytes.NewReader(b))
	} else {
		err = r.Reset(bytes.NewReader(b))
	}
	if err != nil {
		return nil, status.Newf(codes.Internal, "grpc: failed to decompress the message: %v", err)
	}
	defer gzipReaders.Put(r)
	out, err := io.ReadAll(io.LimitReader(r, int64(max)+1))
	if err != nil {
		return nil, status.Newf(codes.Internal, "grpc: failed to read decompressed data: %v", err)
	}
	if len(out) > max {
		return nil, status.Newf(codes.ResourceExhausted, "grpc: received message after decompression larger than max %d", max)
	}
	return out, nil
}

// gzipped compresses a message.
func gzipped(b []byte) []byte {
	var buf bytes.Buffer
	w := gzipWriters.Get().(*gzip.Writer)
	defer gzipWriters.Put(w)
	w.Reset(&buf)
	w.Write(b) // a bytes.Buffer takes everything
	w.Close()
	return buf.Bytes()
}
