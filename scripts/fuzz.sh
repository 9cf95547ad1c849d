#!/usr/bin/env bash
# Runs the fuzz targets one after the other; see fuzz/README.md.
#
#   FUZZ_SECONDS   how long each target runs (default 60)
#   FUZZ_TARGET    run only this one
#   FUZZ_SANITIZER none (default) or address, which is several times slower
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${FUZZ_SECONDS:-60}
only=${FUZZ_TARGET:-}
sanitizer=${FUZZ_SANITIZER:-none}
cargo_fuzz_version=0.13.2

shopt -s nullglob
targets=()
for file in fuzz/targets/*.rs; do
  name=$(basename "$file" .rs)
  if [ -z "$only" ] || [ "$only" = "$name" ]; then
    targets+=("$name")
  fi
done
if [ ${#targets[@]} -eq 0 ]; then
  if [ -n "$only" ]; then
    echo "fuzz: no target named $only in fuzz/targets" >&2
    exit 1
  fi
  echo "fuzz: no target yet (fuzz/targets/*.rs)"
  exit 0
fi

if ! cargo +nightly --version >/dev/null 2>&1; then
  echo "fuzz: a nightly toolchain is needed: rustup toolchain install nightly" >&2
  exit 1
fi
if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
  echo "fuzz: installing cargo-fuzz $cargo_fuzz_version"
  cargo +nightly install --locked --version "$cargo_fuzz_version" cargo-fuzz
fi

failed=()
for name in "${targets[@]}"; do
  echo "fuzz: $name for $seconds s"
  # New inputs go to a scratch folder; the kept corpus is read only.
  scratch=fuzz/target/corpus/$name
  mkdir -p "$scratch" "fuzz/corpus/$name"
  cargo +nightly fuzz run --sanitizer "$sanitizer" "$name" "$scratch" "fuzz/corpus/$name" -- \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 || failed+=("$name")
done

echo "fuzz: ${#targets[@]} targets, ${#failed[@]} failed${failed[*]:+: ${failed[*]}}"
[ ${#failed[@]} -eq 0 ]
