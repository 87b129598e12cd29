#!/usr/bin/env bash
# Fuzzes each target in turn for FUZZTIME, ten minutes by default; 60000x is that
# many runs. What is found stays in testdata/fuzz, as a seed for every later test.
set -euo pipefail
cd "$(dirname "$0")/.."

# Not in the head of the loop, where its failure would be none.
targets=$(go test -list '^Fuzz' . | grep '^Fuzz') || {
  echo "there is nothing to fuzz, or it does not compile" >&2
  exit 1
}
for target in $targets; do
  echo "== $target, ${FUZZTIME:-10m}"
  go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-10m}" . | grep -vE 'elapsed: .*(gathering|execs)' || {
    echo "$target found something: see above and testdata/fuzz/$target" >&2
    exit 1
  }
done
