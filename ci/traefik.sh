#!/usr/bin/env bash
# Builds the real Traefik as .build/traefik-VERSION and points .build/traefik at
# it. VERSION is TRAEFIK_VERSION, or the reference v3.6.12. Nothing happens where
# it is there already, or where TRAEFIK_BIN names a Traefik to use.
#
# It is built in its own module, so that its own go.mod with all its replace and
# exclude lines holds, and go.sum vouches for every dependency.
set -euo pipefail
cd "$(dirname "$0")/.."

[ -z "${TRAEFIK_BIN:-}" ] || exit 0
version=${TRAEFIK_VERSION:-v3.6.12}
binary=$PWD/.build/traefik-$version
mkdir -p .build

if [ ! -x "$binary" ]; then
  echo "Building Traefik $version. The first time this takes several minutes; then Go's build cache has it."
  module=$(here=$PWD && cd /tmp && "$here/ci/try.sh" go mod download -json "github.com/traefik/traefik/v3@$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p') || module=
  if [ -z "$module" ]; then
    echo "Go could not download Traefik $version: is that a version, and is there a network?" >&2
    exit 1
  fi
  log=$(mktemp)
  part=$binary.part.$$ # another run may be building it, too
  trap 'kill "${ticker:-}" 2>/dev/null || true; rm -f "$log" "$part"' EXIT
  (
    trap 'kill "$!" 2>/dev/null; exit' TERM # or its sleep would keep our output open
    while kill -0 "$$" 2>/dev/null; do
      sleep 60 &
      wait "$!"
      echo "... still building Traefik $version"
    done
  ) &
  ticker=$!
  if ! (here=$PWD && cd "$module" && GOFLAGS=-mod=readonly "$here/ci/try.sh" go mod download && CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath \
    -ldflags "-s -w -X github.com/traefik/traefik/v3/pkg/version.Version=$version" \
    -o "$part" ./cmd/traefik) >"$log" 2>&1; then
    grep -v '^go: downloading' "$log" >&2 || true
    echo "Traefik $version could not be built: see above." >&2
    exit 1
  fi
  mv "$part" "$binary"
fi
ln -sfn "traefik-$version" .build/traefik
