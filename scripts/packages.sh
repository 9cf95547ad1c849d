#!/usr/bin/env bash
# Installs the Debian packages that a target needs and that are missing.
#
#   scripts/packages.sh demo   compiler, TPM emulator
#   scripts/packages.sh test   the same, the TPM tools that the tests compare with, network namespaces, the PostgreSQL
#                              server that the tests start for themselves, and the Python package that the
#                              independent implementations need
#
# Where installing is not possible it prints the one line to run.
# A demo without the TPM emulator goes on with the software root of trust, so that case succeeds;
# a missing compiler, or anything missing for the tests, fails.
set -euo pipefail

purpose=${1:-}
case $purpose in
  demo | test) ;;
  *)
    echo "usage: scripts/packages.sh demo|test" >&2
    exit 2
    ;;
esac

# Debian package -> is it there? Commands are asked for, so any system that has them is fine.
have() {
  case $1 in
    gcc) command -v cc >/dev/null && command -v gcc >/dev/null ;;
    libc6-dev) command -v gcc >/dev/null && echo '#include <stdlib.h>' | gcc -E - >/dev/null 2>&1 ;;
    make) command -v make >/dev/null ;;
    pkg-config) command -v pkg-config >/dev/null ;;
    swtpm) command -v swtpm >/dev/null ;;
    swtpm-tools) command -v swtpm_setup >/dev/null ;;
    tpm2-tools) command -v tpm2 >/dev/null ;;
    postgresql) command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null ;;
    python3-cryptography)
      # The tests look for the same two.
      python3 -c 'import cryptography' 2>/dev/null || /usr/bin/python3 -c 'import cryptography' 2>/dev/null
      ;;
    iproute2) command -v ip >/dev/null || [ -x /usr/sbin/ip ] || [ -x /sbin/ip ] ;;
  esac
}

compiler=(gcc libc6-dev make pkg-config)
anchor=(swtpm)
if [ "$purpose" = test ]; then
  anchor+=(swtpm-tools tpm2-tools iproute2 postgresql python3-cryptography)
fi

# Prints what is still missing of its arguments.
missing() {
  local package
  for package in "$@"; do
    have "$package" || echo "$package"
  done | xargs
}

# Runs a command as root, without a question where nobody could answer it.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif [ -t 0 ]; then
    sudo "$@"
  else
    sudo --non-interactive "$@"
  fi
}

can_install() {
  command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null; }
}

install_packages() {
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -y -o DPkg::Lock::Timeout=120)
  # An old list may still do: let the installation decide.
  as_root "${apt[@]}" update || true
  as_root "${apt[@]}" install --no-install-recommends "$@"
}

if ! command -v cargo >/dev/null; then
  echo "packages: cargo is missing; install it with rustup, the pinned toolchain follows by itself" >&2
  exit 1
fi

needed=$(missing "${compiler[@]}" "${anchor[@]}")
if [ -z "$needed" ]; then
  exit 0
fi

if can_install; then
  echo "packages: installing $needed"
  # shellcheck disable=SC2086  # a list of words
  install_packages $needed >&2 || echo "packages: the installation failed" >&2
fi

needed=$(missing "${compiler[@]}" "${anchor[@]}")
if [ -z "$needed" ]; then
  exit 0
fi

cat >&2 <<EOF

******************************************************************************
  These Debian packages are missing and could not be installed:
    $needed
  Run this line as root, then start again:
    apt-get update && apt-get install -y --no-install-recommends $needed
EOF
verdict=1
if [ "$purpose" = demo ] && [ -z "$(missing "${compiler[@]}")" ]; then
  cat >&2 <<'EOF'

  The demo goes on WITHOUT a TPM: it uses the software root of trust, which
  protects nothing against somebody who holds the meter.
EOF
  verdict=0
fi
echo "******************************************************************************" >&2
exit $verdict
