package h2

import (
	"encoding/base64"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2/hpack"
)

// reservedName tells names that are not metadata although they are header fields
// (gRPC's list, as grpc-go has it).
func reservedName(name string) bool {
	if name == "" || name[0] == ':' {
		return true
	}
	switch name {
	case "content-type", "user-agent", "grpc-message-type", "grpc-encoding", "grpc-message",
		"grpc-status", "grpc-timeout", "grpc-status-details-bin", "te":
		return true
	}
	return false
}

// validName tells whether name may be sent: a token without upper case letters.
func validName(name string) bool {
	for i := 0; i < len(name); i++ {
		if c := name[i]; 'A' <= c && c <= 'Z' {
			return false
		}
	}
	return httpguts.ValidHeaderFieldName(name)
}

// connectionName tells the HTTP/1 fields that make an HTTP/2 request malformed
// (RFC 9113, 8.2.2).
func connectionName(name string) bool {
	switch name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		return true
	}
	return false
}

const binSuffix = "-bin"

func encodeMetadata(name, value string) string {
	if strings.HasSuffix(name, binSuffix) {
		return base64.RawStdEncoding.EncodeToString([]byte(value))
	}
	return value
}

// decodeMetadata undoes the base64 of names that end in -bin, padded or not.
func decodeMetadata(f hpack.HeaderField) (string, error) {
	if !strings.HasSuffix(f.Name, binSuffix) {
		return f.Value, nil
	}
	enc := base64.RawStdEncoding
	if len(f.Value)%4 == 0 {
		enc = base64.StdEncoding
	}
	b, err := enc.DecodeString(f.Value)
	return string(b), err
}

// decodeTimeout parses grpc-timeout: at most eight digits and a unit. Texts are
// grpc-go's.
func decodeTimeout(s string) (time.Duration, error) {
	if len(s) < 2 {
		return 0, fmt.Errorf("transport: timeout string is too short: %q", s)
	}
	if len(s) > 9 {
		return 0, fmt.Errorf("transport: timeout string is too long: %q", s)
	}
	var unit time.Duration
	switch s[len(s)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, fmt.Errorf("transport: timeout unit is not recognized: %q", s)
	}
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 64)
	if err != nil {
		return 0, err
	}
	if n > uint64(math.MaxInt64/unit) {
		return math.MaxInt64, nil
	}
	return unit * time.Duration(n), nil
}

const hexDigits = "0123456789ABCDEF"

// encodeMessage percent-encodes a grpc-message: printable ASCII but '%' stays,
// invalid UTF-8 becomes the replacement character.
func encodeMessage(msg string) string {
	plain := true
	for i := 0; i < len(msg); i++ {
		if c := msg[i]; c < ' ' || c > '~' || c == '%' {
			plain = false
			break
		}
	}
	if plain {
		return msg
	}
	var sb strings.Builder
	for _, r := range msg {
		if r >= ' ' && r <= '~' && r != '%' {
			sb.WriteByte(byte(r))
			continue
		}
		var enc [utf8.UTFMax]byte
		for _, b := range enc[:utf8.EncodeRune(enc[:], r)] {
			sb.Write([]byte{'%', hexDigits[b>>4], hexDigits[b&15]})
		}
	}
	return sb.String()
}
