#!/usr/bin/env bash
# Shows that a longer context lowers the loss on the demo's text.
#
#   scripts/context_gain.sh [FLAG...]
#
# Trains the demo twice, with contexts of 64 and of 512 tokens and the same number of tokens in every step and every
# evaluation, and compares the last validation losses; FLAGs (such as --steps 60) go to both runs. Makes
# out/context-64 and out/context-512 anew and draws their curves into out/context.png. About two minutes on two
# quiet cores. The longer context learns more slowly at first: much fewer than the demo's 300 steps do not show
# the gain. Exit status: 0 the longer context has the lower loss, 1 it has not, or something failed. Needs
# ./train_llama (make), python3 and gnuplot. TRAIN_LLAMA=PROGRAM takes another build.
set -euo pipefail

cd "$(dirname "$0")/.."
program=${TRAIN_LLAMA:-./train_llama}
if [[ ! -x $program ]]; then
  echo "context_gain.sh: found no program $program. Run make first." >&2
  exit 1
fi
for tool in python3 gnuplot; do
  if ! command -v "$tool" >/dev/null; then
    echo "context_gain.sh: found no $tool. Install it (scripts/install_deps.sh)." >&2
    exit 1
  fi
done

train() { # tokens of context, sequences a batch, flags of the caller
  local out=out/context-$1
  rm -rf "$out"
  echo "context of $1 tokens: $out"
  "$program" --seq-len "$1" --batch "$2" "${@:3}" --out "$out"
}

train 64 32 "$@"
train 512 4 "$@"

scripts/plot_run.py out/context-64 out/context-512 -o out/context.png
python3 - out/context-64/log.jsonl out/context-512/log.jsonl <<'END'
import json, sys

def last_val_loss(path):
    with open(path, encoding="utf-8") as file:
        return [row["val_loss"] for row in map(json.loads, file) if row.get("val_loss") is not None][-1]

short, long = map(last_val_loss, sys.argv[1:])
print("validation loss after the last step")
print(f"  context  64 tokens  {short:.4f}")
print(f"  context 512 tokens  {long:.4f}")
verdict = "the longer context is lower" if long < short else "the longer context is NOT lower"
print(f"  difference         {long - short:+.4f}: {verdict}")
sys.exit(0 if long < short else 1)
END
