#!/usr/bin/env bash
# Installs the Debian packages that are named, where they are missing:
#   ci/install.sh PACKAGE...
# Needs root or sudo for that, and nothing where nothing is missing.
set -euo pipefail

missing=()
for package in "$@"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
  echo "These are missing, and there is no apt-get to install them with: ${missing[*]}" >&2
  exit 1
fi
sudo=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "These are missing; install them as root, then try again: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  sudo=(sudo)
fi
echo "Installing Debian packages: ${missing[*]}"
log=$(mktemp)
policy=/usr/sbin/policy-rc.d
ours=
trap 'rm -f "$log"; [ -z "$ours" ] || "${sudo[@]}" rm -f "$ours" || echo "Remove $ours: while it is there no service is started that you install." >&2' EXIT
# Debian's way to say that services which are installed are not to be started.
if [ ! -e "$policy" ]; then
  ours=$policy
  printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
  "${sudo[@]}" chmod 755 "$policy"
fi
# A repository of somebody else's may not answer, and a machine that has just been
# started may be installing something by itself.
install() {
  "${sudo[@]}" apt-get update || true
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]}"
}
installed=
for pause in 0 10 30; do
  sleep "$pause"
  if install >"$log" 2>&1; then
    installed=yes
    break
  fi
done
if [ -z "$installed" ]; then
  cat "$log" >&2
  echo "Could not install ${missing[*]}: see above." >&2
  exit 1
fi
# Nor at the next boot: a web server on port 80, for one.
if command -v systemctl >/dev/null; then
  for package in "${missing[@]}"; do
    case $package in
    nginx-light) "${sudo[@]}" systemctl disable --quiet nginx.service || true ;;
    redis-server) "${sudo[@]}" systemctl disable --quiet redis-server.service || true ;;
    esac
  done
fi
