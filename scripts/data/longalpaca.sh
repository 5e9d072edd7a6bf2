#!/usr/bin/env bash
# Fetches LongAlpaca-12k and makes token shards of it; --help says more.
set -euo pipefail
name=longalpaca
about="LongAlpaca-12k: 9,000 questions about long texts with answers, 3,000 short ones (Chen et al., arXiv 2309.12307).
Size: 498 MB. Licence: CC BY-NC 4.0: for research, not for commercial use.
What is fetched is one JSON array; jq makes JSONL of it, which takes about 3 GB of memory."
# shellcheck source=scripts/data/common.sh
source "$(dirname "$0")/common.sh"
begin "$@"
needs jq

json=$out/raw/LongAlpaca-12k.json lines=$out/raw/longalpaca.jsonl
fetch https://huggingface.co/datasets/Yukang/LongAlpaca-12k/resolve/main/LongAlpaca-12k.json "$json"
if [[ ! -s $lines ]]; then
  # Llama 2's chat format, as LongAlpaca's authors use it
  jq -c '.[] | {prompt: ("[INST] " + .instruction + " [/INST] "), completion: .output}' "$json" >"$lines.part" ||
    reject "$json" "jq cannot read it as an array of objects with instruction and output"
  mv "$lines.part" "$lines"
fi
echo "# $(wc -l <"$lines") questions and answers"
finish --input "$lines" --prompt-field prompt --completion-field completion --val-fraction 0.02
