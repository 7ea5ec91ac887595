// Package operator does to the real binary what a new or a tired operator does:
// the README's commands, the usual mistakes, stopping, TLS. Each mistake must end
// in one line that says what is wrong and what to do, and change nothing.
package operator
