#!/usr/bin/env bash
# Runs every fuzz target of the module in turn.
#
#	fuzz.sh [TIME]      (default 30s a target)
set -euo pipefail
cd "$(dirname "$0")/.."
each=${1:-30s}
grep -rlE --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do
	for target in $(grep -hoE '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | cut -d' ' -f2); do
		echo "fuzz: $dir $target for $each"
		go test -run '^$' -fuzzminimizetime 5x -fuzz "^$target\$" -fuzztime "$each" "$dir"
	done
done
