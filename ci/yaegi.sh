#!/usr/bin/env bash
# Builds .build/yaegi, the interpreter that Traefik runs plugins with, and lays
# .build/gopath out so that it finds this package as Traefik does.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p .build/gopath/src/github.com/lifesix
ln -sfn ../../../../.. .build/gopath/src/github.com/lifesix/dynamicforward
(cd e2e && ../ci/try.sh go mod download && go build -o ../.build/yaegi github.com/traefik/yaegi/cmd/yaegi)
