// Package httpapi is what a member answers over plain HTTP on its client port,
// beside gRPC: /version, /health, /livez, /readyz, /metrics, profiles behind
// their flag, and the JSON gateway under /v3.
//
// It knows the member only as the small Member interface, and the gRPC API only
// as a client connection, so nothing here decides anything. Texts, status codes
// and headers are etcd's (surface: HTTP).
package httpapi
