#!/usr/bin/env bash
# gofmt, vet and staticcheck on both modules, no select statement in the plugin,
# all its methods in early.go, those of its tests in early_test.go, and shell syntax.
set -euo pipefail
cd "$(dirname "$0")/.."

version=v0.8.2
staticcheck=$PWD/.build/staticcheck-$version-$(go env GOVERSION)
if [ ! -x "$staticcheck" ]; then
  GOBIN=$staticcheck.bin ci/try.sh go install "honnef.co/go/tools/cmd/staticcheck@$version"
  mv "$staticcheck.bin/staticcheck" "$staticcheck"
  rmdir "$staticcheck.bin"
fi
unformatted=$(git ls-files --cached --others --exclude-standard '*.go' | grep -v '^vendor/' | xargs gofmt -l)
if [ -n "$unformatted" ]; then
  echo "not formatted; run gofmt -w on: $unformatted" >&2
  exit 1
fi
if grep -n 'select {' $(git ls-files --cached --others --exclude-standard '*.go' | grep -v -e / -e _test.go); then
  echo "a select statement is not safe interpreted: use choose (choose.go)" >&2
  exit 1
fi
files=$(git ls-files --cached --others --exclude-standard '*.go' | grep -v /)
for early in early.go early_test.go; do
  [ $early = early.go ] && which=-v || which=
  methods=$(grep $which _test.go <<<"$files" | xargs \
    sed -nE 's/^func \(([a-z]+ )?(\*?)([A-Za-z]+)\) ([A-Za-z0-9]+)\(.*/\3 \4/p' | sort)
  used=$(sed -nE 's/^\t_ = (\(\*)?([A-Za-z]+)(\)\(nil\)|\{\})\.([A-Za-z0-9]+)$/\2 \4/p' $early | sort)
  if [ "$methods" != "$used" ]; then
    echo "$early has to use every method once, and nothing else:" >&2
    diff <(echo "$used") <(echo "$methods") >&2 || true
    exit 1
  fi
done
for script in ci/*.sh .ci/run; do bash -n "$script"; done
for module in . e2e; do
  (cd "$module" && go vet ./... && "$staticcheck" ./...)
done
echo "lint: nothing to say"
