#!/usr/bin/env bash
# The speed tables of a GPU, in at most 8 minutes: products, row kernels and the LM head against the roofs that
# are measured on the same GPU, Llama3-8B-shaped steps at T = 8K, 32K and 128K, small models as LLM.Q measures
# them, and what mini-sequences cost where they are not needed; then transformers at the same steps, where python3
# has torch and transformers. Results go to bench/results/gpu-bench-DEVICE-DATE.json. What it needs, and how it
# does without packages and a compiler: see test/gpu_check.sh.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
source test/gpu_common.sh
readonly limit_s=480

if ! device=$(query name); then
  echo "gpu-bench: skipped, there is no NVIDIA GPU here (nvidia-smi lists none)."
  exit 0
fi
arch=$(query compute_cap)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

make_programs "${arch/./}" $build/gpu_bench || exit 1
status=0
ours timeout $((limit_s - SECONDS)) $build/gpu_bench | tee "$work/rows" || status=$?

# Peers run the layers and the lengths that our own steps ran, as far as the time goes.
if python3 -c 'import torch, transformers' 2>/dev/null; then
  for length in 8192 32768; do
    layers=$(grep "\"bench\": \"step\".*\"T\": $length," "$work/rows" | grep -o '"layers": [0-9]*' | grep -o '[0-9]*$')
    [[ -n $layers ]] || continue
    timeout $((limit_s - SECONDS > 1 ? limit_s - SECONDS : 1)) python3 bench/peer_transformers.py "$layers" $length |
      tee -a "$work/rows" || echo "gpu-bench: the peers at T = $length did not finish"
  done
else
  echo "gpu-bench: no peers: python3 with torch and transformers is not here"
fi

result=bench/results/gpu-bench-$(tr -cs 'A-Za-z0-9\n' - <<<"$device")-$(date -u +%F).json
mkdir -p bench/results
{
  printf '{\n  "device": "%s", "compute_capability": "%s", "driver": "%s", "date": "%s", "commit": "%s",\n' \
    "$device" "$arch" "$(query driver_version)" "$(date -u +%F)" "$(commit_of_programs)"
  printf '  "seconds": %d, "status": %d,\n  "rows": [\n' $SECONDS $status
  grep '}$' "$work/rows" | sed 's/^/    /; $!s/$/,/' # a row that was cut short is none
  printf '  ]\n}\n'
} >"$result"
echo "results in $result"
exit $status
