#!/usr/bin/env bash
# Fine-tunes a Hugging Face Llama on very long sequences, 64 thousand to a million tokens, with the memory flags that
# ./train_llama chooses by itself.
#
#   scripts/run_long_context.sh MODEL DATA SEQ_LEN [FLAG...]
#
#   MODEL     a Hugging Face folder
#   DATA      JSONL (the texts of "text", see --field) or a text file; at least SEQ_LEN tokens of it
#   SEQ_LEN   tokens of a sequence, such as 64Ki, 256Ki, 1Mi
#   FLAG...   flags of scripts/finetune_long.sh (--field --prompt-field --completion-field --epochs --lr --batch
#             --grad-accum --val-fraction) and of ./train_llama. Beyond the length that the model was made for, give
#             --rope-theta, or --rope-scaling with --rope-factor. Without other flags it is --dtype bf16 --moments bf16
#             with --update step; --update layer --clip 0 and --moments 8bit save the most memory.
#
# Prints the memory plan first. What does not fit is refused, with what is missing and what would help (exit status 2).
# Then it trains; OUT gets the folders of scripts/finetune_long.sh, with loss.png, and memory.png, the memory of a step
# (the pictures where python3 and gnuplot are there). The same command goes on where the last one stopped. OUT=DIR says
# where (out/long-MODEL-SEQ_LEN), BIN=FOLDER where the two programs are.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/common.sh"

if [[ ${1-} == --help ]]; then
  print_usage
  exit 0
fi
(($# >= 3)) || fail "found $# arguments, expected MODEL DATA SEQ_LEN. --help says more."
model=$1 data=$2 seq_len=$3
shift 3
[[ $model != --* && $data != --* && $seq_len != --* ]] ||
  fail "found a flag among the first three arguments, expected MODEL DATA SEQ_LEN. --help says more."
name=$(basename "$model")
out=${OUT:-out/long-$name-$seq_len}
here=$(dirname "$0") bin=${BIN:-$(dirname "$0")/..}
need_program train_llama

# the flags of finetune_long.sh, and with them what the plan has to know
tuning=() flags=() plan=()
while (($#)); do
  flag=$1 argument=()
  shift
  if [[ $flag == --* && $flag != *=* && $# -gt 0 && $1 != --* ]]; then
    argument=("$1")
    shift
  fi
  case ${flag%%=*} in
  --field | --prompt-field | --completion-field | --epochs | --lr | --val-fraction)
    tuning+=("$flag" "${argument[@]}")
    ;;
  --batch | --grad-accum)
    tuning+=("$flag" "${argument[@]}")
    plan+=("$flag" "${argument[@]}")
    ;;
  *) flags+=("$flag" "${argument[@]}") ;;
  esac
done
formats=(--dtype bf16 --moments bf16) batch=(--batch 1)
drop_given formats "${flags[@]}"
drop_given batch "${plan[@]}"
flags=("${formats[@]}" "${flags[@]}")
plan=(--model "$model" --seq-len "$seq_len" "${batch[@]}" "${plan[@]}" "${flags[@]}")

"$bin/train_llama" --plan "${plan[@]}"
fit=$("$bin/train_llama" --plan --json "${plan[@]}" 2>/dev/null)
[[ $fit == *'"fits": true'* ]] || fail "this does not fit, see above: nothing was run."
"$here/finetune_long.sh" --model "$model" --data "$data" --out "$out" --seq-len "$seq_len" "${tuning[@]}" -- "${flags[@]}"
if command -v python3 >/dev/null && command -v gnuplot >/dev/null; then
  "$here/plot_timeline.py" -o "$out/memory.png" --program "$bin/train_llama" -- "${plan[@]}"
fi
