// Package tidy holds the tests that keep the house in order: which room may
// import which, one package doc each, how long a file and a function may be,
// and what a pure room must not touch.
//
// The policy is the table in policy.go. It says what docs/ARCHITECTURE.md says;
// change the two together, and never only to make the build pass.
package tidy
