#!/usr/bin/env bash
# vendor.sh makes vendor/ from what go.mod asks for, with patches/ applied.
# vendor.sh --check changes nothing, and fails if vendor/ is anything else.
set -euo pipefail
export LC_ALL=C

# Inside a git hook these would make git apply look at the hook's repository.
unset $(git rev-parse --local-env-vars)
# Flags and workspaces of the caller's are not part of what vendor/ is made from.
export GOFLAGS= GOWORK=off

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"

case "${1-}" in
"" | --check) ;;
*)
	echo "usage: ci/vendor.sh [--check]" >&2
	exit 2
	;;
esac

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
tmp=$(cd "$tmp" && pwd -P)
# git apply skips, without a word, what lies outside of a repository that it finds
# above the working directory: keep it from finding one.
export GIT_CEILING_DIRECTORIES=$tmp

ci/try.sh go mod vendor -o "$tmp/vendor"

for patch in patches/*.patch; do
	dir=$(sed -n 's/^Applies-In: //p' "$patch")
	if [[ -z $dir || ! -d $tmp/$dir ]]; then
		echo "ci/vendor.sh: $patch: \"Applies-In: $dir\" is not a folder of vendor/" >&2
		exit 1
	fi
	if ! (cd "$tmp/$dir" && git apply --whitespace=nowarn "$root/$patch"); then
		echo "ci/vendor.sh: $patch does not apply to what go.mod asks for." >&2
		echo "Adapt it to the new version, or delete it if ci/patches.sh says that it is not needed." >&2
		exit 1
	fi
done

if [[ ${1-} == --check ]]; then
	mkdir -p "$tmp/empty"
	committed=vendor
	[[ -d vendor ]] || committed=$tmp/empty
	if ! differences=$(diff -rq "$committed" "$tmp/vendor"); then
		echo "ci/vendor.sh: vendor/ is not what go.mod and patches/ make:" >&2
		sed -e "s|^Files .* and $tmp/\(.*\) differ$|  changed: \1|" \
			-e "s|^Only in $tmp/\(.*\): |  missing: \1/|" \
			-e "s|^Only in \(.*\): |  too much: \1/|" <<<"$differences" >&2
		echo "Run \"make vendor\" and commit the result. A change that is meant to stay goes into patches/." >&2
		exit 1
	fi
	echo "vendor/ is what go.mod and patches/ make."
	exit
fi

rm -rf vendor
cp -R "$tmp/vendor" vendor
