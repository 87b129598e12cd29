#!/usr/bin/env bash
# Builds .build/yaegi, the interpreter that Traefik runs plugins with, and lays
# .build/gopath out so that it finds this package as Traefik does. It has the race
# detector in it, which sees what the interpreter itself reads and writes without a lock:
# what early.go is there for.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p .build/gopath/src/github.com/lifesix
ln -sfn ../../../../.. .build/gopath/src/github.com/lifesix/dynamicforward
(cd e2e && ../ci/try.sh go mod download && go build -race -o ../.build/yaegi github.com/traefik/yaegi/cmd/yaegi)
