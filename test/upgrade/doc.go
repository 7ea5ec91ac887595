// Package upgrade holds the end-to-end tests of the tool: real members as processes, the
// real program, and clients that must not notice. What takes long runs with
// THESEUS_FULL=1.
package upgrade
