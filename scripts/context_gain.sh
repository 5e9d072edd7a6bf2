#!/usr/bin/env bash
# Shows that on the demo's text a longer context has a lower loss: trains the demo on sequences of 64 and of 512
# bytes, with the same bytes a step and an evaluation, and compares their validation losses. Takes about a
# minute for each on two cores. Runs and picture go to out/context-64, out/context-512 and out/context.png.
#
#   scripts/context_gain.sh [FLAGS OF train_llama...]
set -eu -o pipefail
cd "$(dirname "$0")/.."

# Sequences a micro-batch, so that a step has 2048 bytes.
train() {
  rm -rf "out/context-$1"
  ./train_llama --seq-len "$1" --batch $((2048 / $1)) --out "out/context-$1" "${@:2}"
}

last_val_loss() { grep -o '"val_loss": *[0-9.e+-]*' "out/context-$1/log.jsonl" | tail -n 1 | grep -o '[0-9.e+-]*$'; }

if [[ ! -x ./train_llama ]]; then
  echo "context_gain.sh: found no ./train_llama; run make first." >&2
  exit 2
fi
train 64 "$@"
train 512 "$@"
scripts/plot_run.py out/context-64 out/context-512 -o out/context.png
awk -v short="$(last_val_loss 64)" -v long="$(last_val_loss 512)" 'BEGIN {
  printf "validation loss: %.4f with a context of 64 bytes, %.4f with 512: %.4f nats a byte lower\n",
         short, long, short - long
  exit !(long < short)
}'
