#!/usr/bin/env bash
# The longest sequences that fit a card, as a Markdown table: full-parameter bf16 training, one sequence a step, each
# layer updated as soon as its gradient is there. Nothing is run: these are memory plans, exact but for what CUDA and its
# libraries take, for which 1 GB is left.
#
#   scripts/longest_sequence.sh [CARD [HOST_MEMORY]]        80G and 512G without them; see ./train_llama --help plan-device
set -u -o pipefail

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/common.sh"

if [[ ${1-} == --help ]]; then
  print_usage
  exit 0
fi
cd "$(dirname "$0")/.." || exit 1
card=${1:-80G} host=${2:-512G} program=${TRAIN_LLAMA:-./train_llama}
models=(llama3-8b llama2-7b mistral-7b qwen2-7b llama3.2-3b llama3.2-1b)

# longest MODEL FLAGS...: thousands of tokens, rounded down
longest() {
  local model=$1 plan
  shift
  if ! plan=$("$program" --max-seq-len-for "$card" --model "$model" --batch 1 --dtype bf16 --update layer --clip 0 \
    --json "$@" 2>/dev/null); then
    echo "–"
    return
  fi
  echo $(($(grep -o '"seq_len": [0-9]*' <<<"$plan" | grep -o '[0-9]*$') / 1000))
}

if [[ ! -x $program ]]; then
  fail "found no $program, expected the program: run make first."
fi
"$program" --max-seq-len-for "$card" --model demo --host-memory "$host" >/dev/null || exit 2
echo "Thousands of tokens on a card of $card, one sequence; the last column with $host of host memory."
echo
echo "| model | bf16 moments, every layer | bf16 moments, best k | 8-bit, every layer | 8-bit, best k | offload, bf16 moments |"
echo "|---|---|---|---|---|---|"
for model in "${models[@]}"; do
  printf '| %s | %s | %s | %s | %s | %s |\n' "$model" \
    "$(longest "$model" --moments bf16 --checkpoint-every 1)" "$(longest "$model" --moments bf16)" \
    "$(longest "$model" --moments 8bit --checkpoint-every 1)" "$(longest "$model" --moments 8bit)" \
    "$(longest "$model" --moments bf16 --host-memory "$host")"
done
