#!/usr/bin/env bash
# A short version of the benchmarks of the CPU, in less than 5 minutes: `make bench`. Each script has the whole one,
# and says what its numbers mean (--help).
#
#   bench/cpu_bench.sh BUILD_FOLDER
#
# PYTHON: a python with torch and transformers, for the comparison with them (default: python3); it is skipped without.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
readonly build=${1:?the folder that the programs were built in} python=${PYTHON:-python3}
status=0

part() {
  printf '\n==== %s (%d s since the start)\n' "$*" "$SECONDS"
  "$@" || status=1
}

part bench/cpu_roof.py --program "$build/train_llama" --layers 2 --lengths 2048 --steps 2
part bench/cpu_ops.py "$build/cpu_ops" --quick
part bench/cpu_chunks.py "$build/cpu_chunks" --program "$build/train_llama" --layers 2 --lengths 1024 --chunks 256 --seconds 4
part bench/cpu_start.py --program "$build/train_llama" --layers 1 --lengths 1024
if "$python" -c 'import torch, transformers' 2>/dev/null; then
  part "$python" bench/cpu_peer.py --program "$build/train_llama" --layers 2 --lengths 1024 --repeat 1
  part "$python" bench/cpu_memory.py --program "$build/train_llama" --layers 1 --lengths 1024 4096
else
  printf '\nSKIPPED: %s has no torch and transformers to compare with; PYTHON names one that does.\n' "$python"
fi
printf '\n%d s\n' "$SECONDS"
exit $status
