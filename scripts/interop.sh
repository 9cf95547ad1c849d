#!/usr/bin/env bash
# Lets programs that share no code with Gridseal judge what it does; see docs/interop.md and README.md.
#
#   scripts/interop.sh PROGRAM [CHECK]...
#
# CHECK is any of onboarding, attacks, keys, group, document, reference, strangers; all by default. `onboarding` and
# `strangers` need access to a Python package index, `strangers` with a JDK and git also lets Gurux's Java stack talk.
# Everything happens on loopback and in a temporary directory. Exit 1 when a check fails; all others are run all the same.
set -uo pipefail
cd "$(dirname "$0")/.."

program=$(realpath "${1:?usage: scripts/interop.sh PROGRAM [CHECK]...}")
shift
checks=("$@")
[ ${#checks[@]} -gt 0 ] || checks=(onboarding attacks keys group document reference strangers)
java_stack=https://github.com/Gurux/gurux.dlms.java
export GRIDSEAL=$program PYTHONDONTWRITEBYTECODE=1
scratch=$(mktemp -d "${TMPDIR:-/tmp}/gridseal-interop-XXXXXX")
trap 'rm -rf "$scratch"' EXIT

onboarding() {
  "$program" demo --json --for 8 --evidence "$scratch/run" >"$scratch/run.json" &&
    python3 tests/interop/gso_decode.py --self-test "$scratch/run"
}

attacks() {
  "$program" demo --json --meters 1 --attack all --evidence "$scratch/attacked" >"$scratch/attacked.json" &&
    tail -n 1 "$scratch/attacked.json" >"$scratch/attacked.object" &&
    python3 tests/interop/attacks_check.py "$scratch/attacked" --json "$scratch/attacked.object"
}

keys() {
  "$program" sim keys --schedules 200 --json --evidence "$scratch/keys" >"$scratch/keys.json" &&
    python3 tests/interop/keys_check.py "$scratch/keys"
}

group() {
  "$program" sim group --members 10000 --evict 100 --json --evidence "$scratch/group" >"$scratch/group.json" &&
    python3 tests/interop/group_check.py "$scratch/group"
}

document() { python3 tests/interop/onboarding_reference.py; }

reference() { python3 tests/interop/dlms_reference.py; }

strangers() {
  local parts=(gurux gurux-suites gurux-hdlc gurux-as-it-comes cosem cosem-hdlc)
  if command -v javac >/dev/null && { [ -n "${GURUX_JAVA:-}" ] || git ls-remote -q "$java_stack" >/dev/null 2>&1; }; then
    parts+=(gurux-java forgeries)
  else
    echo "no JDK, or no way to $java_stack: gurux-java and forgeries are left out"
  fi
  python3 tests/interop/dlms_strangers.py "${parts[@]}"
}

failed=()
for check in "${checks[@]}"; do
  case $check in
    onboarding | attacks | keys | group | document | reference | strangers) ;;
    *)
      echo "interop: no check is named $check" >&2
      exit 2
      ;;
  esac
  echo "== $check"
  if "$check"; then echo "== $check: agrees"; else
    echo "== $check: DOES NOT AGREE"
    failed+=("$check")
  fi
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "interop: ${failed[*]} failed" >&2
  exit 1
fi
