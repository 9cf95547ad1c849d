#!/usr/bin/env bash
# Checks the symbolic models in docs/model against the verdicts that docs/model/expected.txt gives for each variant.
#
#   MODEL_VARIANT=config   only this line of the table ("secret+config" for two at once)
#   MODEL_SECONDS=1800     time for one variant; what needs longer counts as failed
#
# Needs the program `verifpal`; installs it with cargo into target/verifpal if it is not there.
set -euo pipefail
cd "$(dirname "$0")/.."

only=${MODEL_VARIANT:-}
seconds=${MODEL_SECONDS:-1800}
root=${CARGO_TARGET_DIR:-target}/verifpal
PATH=$root/bin:$PATH
if ! command -v verifpal >/dev/null; then
  echo "model: installing verifpal"
  cargo install --quiet --locked --ignore-rust-version --root "$root" verifpal
fi

# A variant: lines after `//+name:` come in, lines that end with `//-name` go out, all other markers vanish.
variant() {
  local name script=''
  for name in ${2//+/ }; do
    script+="/\/\/-$name\$/d; s|^( *)//\+$name: |\1|; "
  done
  sed -E "$script" "$1" | sed -E '/^ *\/\/\+/d; s| *//-[a-z]+$||'
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0 checked=0
while read -r model name sessions expected _; do
  case $model in '' | '#'*) continue ;; esac
  if [ -n "$only" ] && [ "$only" != "$name" ]; then continue; fi
  variant "docs/model/$model.vp" "$name" > "$scratch/variant.vp"
  found=$(timeout "$seconds" verifpal verify "$scratch/variant.vp" --sessions "$sessions" --quiet --result-code | tail -1) ||
    found="no verdict in $seconds s"
  checked=$((checked + 1))
  if [ "$found" = "$expected" ]; then
    echo "model: $model, $name, $sessions session(s): $found, as expected"
  else
    echo "model: $model, $name, $sessions session(s): $found, expected $expected"
    failed=$((failed + 1))
  fi
done < docs/model/expected.txt

echo "model: $checked variants, $failed failed"
[ "$checked" -gt 0 ] && [ "$failed" -eq 0 ]
