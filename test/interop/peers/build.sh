#!/usr/bin/env bash
# Builds or unpacks real etcd releases, to be tested against as black boxes.
#
#	build.sh [3.3|3.4|3.5|3.6|3.7]...     (default: all, newest use first)
#
# Binaries go to ${THESEUS_PEERS:-<repository>/build/peers}/<version>/.
# A version that is already there, from the same sources, is left alone.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${THESEUS_PEERS:-$(cd "$here/../../.." && pwd)/build/peers}
mkdir -p "$out"
out=$(cd "$out" && pwd)

tmp=
trap '[ -z "$tmp" ] || rm -rf "$tmp"' EXIT

die() { echo "peers: $*" >&2; exit 1; }

# fresh VERSION STAMP NAME...: is VERSION there, whole, and made from STAMP?
fresh() {
	local ver=$1 stamp=$2 name
	shift 2
	[ "$(cat "$out/$ver/.stamp" 2>/dev/null)" = "$stamp" ] || return 1
	for name; do [ -x "$out/$ver/$name" ] || return 1; done
	echo "peers: $ver: up to date"
}

# settle VERSION STAMP NAME...: move the finished binaries from $tmp into place.
# Each is renamed over the old one, so one that is running is not disturbed.
settle() {
	local ver=$1 stamp=$2 name
	shift 2
	mkdir -p "$out/$ver"
	rm -f "$out/$ver/.stamp"
	for name; do mv -f "$tmp/$name" "$out/$ver/$name"; done
	echo "$stamp" >"$tmp/.stamp"
	mv -f "$tmp/.stamp" "$out/$ver/.stamp"
	rm -rf "$tmp"
	tmp=
	echo "peers: $ver: $out/$ver: $*"
}

# module VERSION FOLDER [NAME=PACKAGE]...: the server is the folder's own main
# package, the rest are its tools.
module() {
	local ver=$1 dir=$here/$2 names=(etcd) pair stamp
	shift 2
	for pair; do names+=("${pair%%=*}"); done
	stamp=$(cd "$dir" && cat go.mod go.sum main.go | sha256sum | cut -d' ' -f1)
	if fresh "$ver" "$stamp" "${names[@]}"; then return; fi
	tmp=$(mktemp -d "$out/.build.XXXXXX")
	echo "peers: $ver: fetching and building what $(basename "$dir")/go.mod requires:"
	(
		cd "$dir"
		export GOWORK=off CGO_ENABLED=0
		go list -mod=readonly -m -f '{{if not .Main}}	{{.}}{{end}}' all | grep -E '/etcd( |/)' || true
		for pair in etcd=. "$@"; do
			nice go build -mod=readonly -p 1 -trimpath -ldflags='-s -w' \
				-o "$tmp/${pair%%=*}" "${pair#*=}"
		done
	)
	settle "$ver" "$stamp" "${names[@]}"
}

# candidate PACKAGE: the version that Debian's lists offer.
candidate() { apt-cache policy "$1" | sed -n 's/^ *Candidate: *//p'; }

# debian VERSION: Debian's packages, unpacked and not installed.
debian() {
	local ver=$1 have pkg
	# What is there is kept, even where the packages are no longer offered.
	if fresh "$ver" "debian $ver" etcd etcdctl; then return; fi
	command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
		die "$ver: needs apt-get and dpkg-deb"
	tmp=$(mktemp -d "$out/.build.XXXXXX")
	chmod 755 "$tmp"
	for pkg in etcd-server etcd-client; do
		have=$(candidate "$pkg")
		if [ -z "$have" ] || [ "$have" = "(none)" ]; then
			echo "peers: $ver: apt-get update (no list of packages yet)"
			apt-get update -qq
			have=$(candidate "$pkg")
		fi
		case $have in
		"$ver".*) ;;
		*) die "$ver: no $pkg $ver on offer (candidate: ${have:-none}); a Debian 12 source and apt-get update are needed" ;;
		esac
		echo "peers: $ver: fetching $pkg $have"
		(cd "$tmp" && apt-get -q -o APT::Sandbox::User=root download "$pkg=$have") ||
			die "$ver: cannot fetch $pkg; try apt-get update"
		dpkg-deb -x "$tmp/$pkg"_*.deb "$tmp/root"
	done
	mv "$tmp/root/usr/bin/etcd" "$tmp/root/usr/bin/etcdctl" "$tmp/"
	settle "$ver" "debian $ver" etcd etcdctl
}

[ $# -gt 0 ] || set -- 3.7 3.5 3.4 3.6 3.3
for ver; do
	case $ver in
	3.5 | 3.6 | 3.7)
		module "$ver" "v${ver/./}" \
			etcdctl=go.etcd.io/etcd/etcdctl/v3 etcdutl=go.etcd.io/etcd/etcdutl/v3
		;;
	3.4) debian 3.4 ;;
	3.3) module 3.3 v33 etcdctl=github.com/coreos/etcd/etcdctl ;;
	*) die "unknown version $ver: want 3.3, 3.4, 3.5, 3.6 or 3.7" ;;
	esac
done
