#!/usr/bin/env bash
# Everything: the package compiled with the race detector, the same tests
# interpreted (by an interpreter with the race detector in it), the proofs of the
# patches, and real Traefik with real Redis. Ends with a summary whose last line is
# "N passed, N failed". Logs: .build/*.log
set -uo pipefail
cd "$(dirname "$0")/.."
mkdir -p .build
failures=0
total_passed=0
total_failed=0
summary=""
failed_tests=""
failures_said=""

# step NAME COMMAND...: runs one part and says how it went; its output is shown
# when it fails.
step() {
  local name=$1 log
  shift
  log=.build/${name// /-}.log
  echo "== $name"
  local begin=$SECONDS
  if "$@" >"$log" 2>&1 9>&-; then
    echo "   ok ($((SECONDS - begin)) s)"
  else
    failures=$((failures + 1))
    failures_of "$log" | head -n 300
    grep -avE '^\s*(=== (RUN|PAUSE|CONT|NAME)|--- (PASS|SKIP))' "$log" | tail -n 60
    echo "   FAILED ($((SECONDS - begin)) s): $name; the whole log is $log"
  fi
}

# failures_of LOG: what the tests said that failed, each below its name, and what there is
# of a panic or a race, whatever became of the test, or of a package that could not be built.
failures_of() {
  awk '
    function keep(text) {
      if (text ~ /(^|\n)(panic: |fatal error: |WARNING: DATA RACE|FAIL\t[^\n]*\[(build|setup) failed\])/) printf "%s", text
    }
    /^=== (RUN|CONT|NAME) / { test = $3; next }
    /^ *=== PAUSE / { next }
    /^ *--- (PASS|SKIP): / { keep(said[$3]); delete said[$3]; next }
    /^ *--- FAIL: / { printf "%s\n%s", $0, said[$3]; delete said[$3]; next }
    { said[test] = said[test] $0 "\n" }
    END { for (test in said) keep(said[test]) }
  ' "$1"
}

# shown is how many lines of a failed part the summary repeats.
shown=60

# count NAME WHERE: adds a test log to the summary: of tests that failed their names, and
# what they said themselves.
count() {
  local log=.build/${1// /-}.log passed failed said
  passed=$(grep -acE '^\s*--- PASS' "$log")
  failed=$(grep -acE '^\s*--- FAIL' "$log")
  total_passed=$((total_passed + passed))
  total_failed=$((total_failed + failed))
  if [ "$failed" -gt 0 ]; then
    failed_tests+=$(grep -aE '^\s*--- FAIL' "$log" | sed "s|^ *--- FAIL|  $2: &|")$'\n'
  fi
  said=$(failures_of "$log" | grep -aE '^ *(--- FAIL: |[A-Za-z0-9_./-]+\.(go|s):[0-9]+(:| \+0x)|panic: |fatal error: |WARNING: DATA RACE|FAIL	)| ERR .*panic' | cut -c1-700)
  if [ -n "$said" ]; then
    failures_said+=$(head -n $shown <<<"$said")$'\n'
    if [ "$(wc -l <<<"$said")" -gt $shown ]; then
      failures_said+="  ... and more: $log"$'\n'
    fi
  fi
  summary+=$(printf '%-28s %4d passed, %d failed' "$2" "$passed" "$failed")$'\n'
  if [ "$passed" -eq 0 ]; then
    summary+="$2: no test ran"$'\n'
    failures=$((failures + 1))
  fi
}

# interpreted runs the tests interpreted, and once more those alone, each in an interpreter
# of its own, that prove something about whoever comes first.
interpreted() {
  local package=github.com/lifesix/dynamicforward test code=0
  local -x GOPATH=$PWD/.build/gopath
  timeout 900 .build/yaegi test -v "$package" || code=$?
  for test in $(sed -nE 's/^func (Test\w+)\(.*/\1/p' early_test.go); do
    timeout 60 .build/yaegi test -v -run "^$test\$" "$package" || code=$?
  done
  return $code
}

if command -v flock >/dev/null; then
  exec 9>.build/lock # which nothing that is started here holds, or it would outlast the run
  flock -n 9 || {
    echo "Somebody is running the tests here already: wait for them, or use another clone." >&2
    echo "0 passed, 1 failed"
    exit 1
  }
fi
step "install" bash -c 'ci/install.sh git ca-certificates curl gcc libc6-dev redis-server nginx-light && ci/yaegi.sh'
if [ "$failures" -gt 0 ]; then
  echo "Without that nothing else can be run."
  echo "0 passed, 1 failed"
  exit 1
fi
step "vendor" ci/vendor.sh --check
step "lint" ci/lint.sh
step "compiled" go test -race -count=1 -v -timeout 20m ./...
count "compiled" "compiled, -race"
# So many runs, not so many seconds: when the time is over, go test (before Go
# 1.27) may call that a failure, "context deadline exceeded" (golang/go#75804).
step "fuzz" env FUZZTIME=60000x ci/fuzz.sh
step "interpreted" interpreted
count "interpreted" "interpreted, Yaegi"
step "patches" ci/patches.sh
if ci/traefik.sh 9>&-; then
  step "traefik" bash -c 'cd e2e && go test -count=1 -v -timeout 45m ./...'
  count "traefik" "in Traefik"
else
  failures=$((failures + 1))
  summary+="in Traefik: not run, for want of a Traefik"$'\n'
fi

echo
echo "$summary"
if [ "$failures" -gt 0 ] && [ "$total_failed" -eq 0 ]; then
  total_failed=$failures
fi
if [ -n "$failures_said" ]; then
  printf 'What failed said:\n%s\n' "$failures_said"
fi
if [ -n "$failed_tests" ]; then
  printf 'Failed:\n%s\n' "$failed_tests"
fi
echo "$total_passed passed, $total_failed failed"
[ "$failures" -eq 0 ]
