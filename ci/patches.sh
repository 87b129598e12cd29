#!/usr/bin/env bash
# patches.sh proves that each patch in patches/ is needed and tested. Interpreted,
# the tests of redigo pass with all patches; without any one of them, the tests
# that its header names fail. Compiled, those pass without it: what a patch heals
# is the interpreter's.
#
# YAEGI is the interpreter, .build/yaegi by default.
set -euo pipefail

unset $(git rev-parse --local-env-vars)
export GOFLAGS=-mod=vendor GOWORK=off

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"

yaegi=${YAEGI:-.build/yaegi}
if ! yaegi=$(command -v "$yaegi"); then
	echo "ci/patches.sh: there is no yaegi at ${YAEGI:-.build/yaegi}: set YAEGI, or run \"make test\", which builds it." >&2
	exit 1
fi
yaegi=$(realpath "$yaegi")

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
tmp=$(cd "$tmp" && pwd -P)
export GIT_CEILING_DIRECTORIES=$tmp

module=$(sed -n 's/^module //p' go.mod)

# tree NAME makes a GOPATH with a package of nothing but the tests of redigo, and
# prints the package's folder. The plugin itself stays out: it would cost time,
# and an error in it would look like a patch that is needed.
tree() {
	local dir=$tmp/$1/src/$module
	mkdir -p "$dir"
	cp -R go.mod go.sum vendor redigo_test.go fakeredis_test.go "$dir"
	echo "package ${module##*/}" >"$dir/package.go"
	echo "$dir"
}

# interpreted NAME TEST and compiled NAME TEST run one test, or those that match,
# in the tree of that name. The time-out is for tests that hang, which all of them together
# may not be taken for on a slow machine.
interpreted() {
	(cd "$tmp/$1/src/$module" && GOPATH=$tmp/$1 timeout -k 5 "${3:-60}" "$yaegi" test -v -run "$2" "$module") >"$tmp/output" 2>&1 </dev/null
}

compiled() {
	(cd "$tmp/$1/src/$module" && go test -count=1 -timeout 60s -v -run "$2" .) >"$tmp/output" 2>&1 </dev/null
}

fail() {
	echo "ci/patches.sh: $1" >&2
	if [[ -s $tmp/output ]]; then
		sed 's/^/    /' "$tmp/output" | tail -n 40 >&2
	fi
	exit 1
}

tree all >/dev/null
interpreted all '^TestRedigo' 300 || fail "the tests fail interpreted, with all patches:"
passed=$(grep -c '^--- PASS: TestRedigo' "$tmp/output" || true)
cp "$tmp/output" "$tmp/all.txt"
echo "all patches: $passed tests pass interpreted"

for patch in patches/*.patch; do
	name=$(basename "$patch" .patch)
	tests=$(sed -n 's/^Test: //p' "$patch")
	[[ -n $tests ]] || fail "$patch names no test (\"Test: TestRedigo...\")"

	dir=$(tree "$name")
	(cd "$dir/$(sed -n 's/^Applies-In: //p' "$patch")" && git apply --reverse --whitespace=nowarn "$root/$patch") ||
		fail "$patch cannot be taken out of vendor/: run \"make vendor\""

	compiled "$name" "^(${tests// /|})\$" || fail "compiled, too, the tests of $patch fail without it:"

	for test in $tests; do
		grep -q "^--- PASS: $test " "$tmp/all.txt" || fail "$patch names $test, which did not run"
		status=0
		interpreted "$name" "^$test\$" || status=$?
		if [[ $status -eq 0 ]]; then
			fail "$patch is not needed or not tested: $test passes without it"
		elif [[ $status -eq 124 || $status -eq 137 ]] && grep -q "^=== RUN" "$tmp/output"; then
			how="hangs"
		elif [[ $status -eq 124 || $status -eq 137 ]]; then
			fail "without $patch $test was not even begun in a minute:"
		elif ! grep -q "^=== RUN" "$tmp/output"; then
			how="does not load"
		elif grep -q "^panic:" "$tmp/output"; then
			how="panics"
		else
			how="fails"
		fi
		echo "without $name: $test $how"
	done
done
