#!/usr/bin/env bash
# Everything that can only be proven on a GPU, in at most 8 minutes: builds for that chip, runs the tests of
# operations and models on it, holds the CPU against it, lets a run go on from one device to the other, and runs
# compute-sanitizer on small tests. Results go to bench/results/gpu-check-DEVICE-DATE.json, what every check
# printed to build/gpu-logs/. The last line is "N passed, N failed, N skipped".
#
#   make gpu-check, or test/gpu_check.sh
#   test/gpu_check.sh NAME...      only those tests (test_flash ...), all of their output, no results
#
# Needs the CUDA toolkit and the packages of scripts/install_deps.sh --test, or build/gpu-carry.tar.xz, which
# test/gpu_carry.sh makes on another machine and which needs neither; the comparison with transformers also
# needs python3 with torch, transformers and safetensors. What is not here is skipped, and said so.
#
# On a machine that is lent for a while, without a network, with the repository and that archive:
#
#   test/gpu_check.sh; bench/gpu_bench.sh; tar -czf results.tar.gz bench/results build/gpu-logs
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
source test/gpu_common.sh
readonly limit_s=480 test_limit_s=120 # of everything; of one test's binary
export OMP_WAIT_POLICY=passive

if ! device=$(query name); then
  echo "gpu-check: SKIPPED, there is no NVIDIA GPU here (nvidia-smi lists none)."
  echo "0 passed, 0 failed, 1 skipped"
  exit 0
fi
arch=$(query compute_cap)
driver=$(query driver_version)
logs=build/gpu-logs

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat README.md docs/*.md >"$work/text.txt"
passed=0 failed=0 skipped=0
rows= # of the JSON

# record NAME RESULT SECONDS NOTE: a row of the results
record() {
  local note
  note=$(printf '%s' "$4" | tr '"\\\000-\037' "'/ ")
  rows+="${rows:+,}
    {\"check\": \"$1\", \"result\": \"$2\", \"seconds\": $3, \"note\": \"$note\"}"
  printf '%-8s %s (%d s) %s\n' "$2" "$1" "$3" "$note"
  case $2 in passed) ((passed++)) ;; failed) ((failed++)) ;; *) ((skipped++)) ;; esac
}

# check NAME COMMAND...: passes when the command succeeds, is skipped when it takes too long. The last line of
# its output, which goes to the logs, becomes the note; its end is shown when it does not pass.
check() {
  local name=$1 start=$SECONDS left=$((limit_s - SECONDS)) status log
  log=$logs/$(tr -c 'A-Za-z0-9\n' - <<<"$1").log
  shift
  if ((left < 5)); then
    record "$name" skipped 0 "no time was left of $limit_s s"
    return
  fi
  timeout --kill-after=10 "$left" bash -o pipefail -c '"$@"' "$name" "$@" >"$log" 2>&1
  status=$?
  if ((status == 0)); then
    local result=passed note
    note=$(tail -n 1 "$log")
    [[ $note != "0 passed, 0 failed"* ]] || result=skipped # tests that are for other builds or machines
    record "$name" $result $((SECONDS - start)) "$note"
    return
  fi
  tail -n 40 "$log"
  if ((status == 124)); then
    record "$name" skipped $((SECONDS - start)) "it did not finish in its time"
  else
    record "$name" failed $((SECONDS - start)) "exit status $status: $(tail -n 1 "$log")"
  fi
}

# The tests that compute on a device; what is quick and basic comes first, since the rest depends on it.
names=(device row_ops adamw moments matmul attention flash attention_cudnn attention_cached two_devices)
for source in test/test_*.cu; do
  name=${source#test/test_} name=${name%.cu}
  [[ " ${names[*]} large " == *" $name "* ]] || names+=("$name")
done
names+=(large)

test_on_gpu() { # NAME
  TEST_DEVICE=cuda BUILD=$build TEST_LIMIT_S=$test_limit_s ours test/run_tests.sh "$build/$1"
}

# run DEVICE FLAGS...: a short fp32 training of the demo on a device
run() {
  local device=$1
  shift
  ours "$build/train_llama" --device "$device" --dtype fp32 --steps 8 --sample-every 0 "$@"
}

# The losses of a log, one a line
losses() { grep -o '"loss": *[0-9.eE+-]*' "$1/log.jsonl" | grep -o '[0-9.eE+-]*$'; }

# Four steps on one device and four on the other give the losses of eight on the first, within 1e-4.
resume_across() { # FROM TO
  local straight=$work/straight-$1 crossed=$work/$1-$2
  [[ -d $straight ]] || run "$1" --out "$straight" || return 1
  run "$1" --out "$crossed" --stop-after 4 --save-every 4 && run "$2" --out "$crossed" --resume || return 1
  paste <(losses "$straight") <(losses "$crossed") | awk '
    { d = $1 - $2; if (d < 0) d = -d; if (NF != 2 || d > 1e-4 * $1) bad = 1; if (d > most) most = d }
    END { print "losses differ by at most " most + 0 " in " NR " steps"; exit bad || NR < 8 }'
}

# same_bits FLAGS...: with --deterministic, a run that goes on from a saved state of another one saves the same
# bytes as that one; and, unless algorithms are chosen by time, so does a run of its own.
same_bits() {
  local one=$work/bits$* file=step-00000008/model.safetensors
  local flags=(--device cuda --dtype bf16 --deterministic --steps 8 --sample-every 0 "$@")
  ours "$build/train_llama" "${flags[@]}" --out "$one" --save-every 3 &&
    ours "$build/train_llama" "${flags[@]}" --out "$one-resumed" --resume "$one/step-00000003" &&
    cmp "$one/$file" "$one-resumed/$file" || return 1
  if [[ $* != *--tune-matmul* ]]; then
    ours "$build/train_llama" "${flags[@]}" --out "$one-again" && cmp "$one/$file" "$one-again/$file" || return 1
  fi
  echo "the same bytes"
}

# Out of device memory is an error that names sizes and flags.
too_large() {
  ours "$build/train_llama" --device cuda --model llama3-70b --train "$work/text.txt" --seq-len 1Ki >"$work/large" 2>&1
  local status=$?
  cat "$work/large"
  ((status == 1 || status == 2)) && grep -q 'B are free\|does not fit' "$work/large" && grep -q -- --seq-len "$work/large"
}

# On the model that the runs above have saved.
compare_with_transformers() {
  local model=$work/straight-cpu/step-00000008 dtype
  for dtype in fp32 bf16; do
    ours "$build/train_llama" --device cuda --model "$model" --train "$work/text.txt" --seq-len 256 --batch 2 \
      --dtype $dtype --dump-grads "$work/$dtype.safetensors" || return 1
  done
  python3 scripts/compare_with_transformers.py "$model" "$work/fp32.safetensors" --tolerance 1e-5 &&
    python3 bench/compare_bf16.py "$model" "$work/bf16.safetensors"
}

# Errors that calls of the runtime return, as an allocation that is too large, are none of the sanitizer's.
sanitize() { # TOOL BINARY
  local options=(--tool "$1" --error-exitcode 9)
  [[ $1 != memcheck ]] || options+=(--report-api-errors no)
  TEST_DEVICE=cuda ours timeout 60 compute-sanitizer "${options[@]}" "$build/$2"
}

# `check` runs them in a shell of its own, which can be stopped when the time is up.
export build carried work arch make test_limit_s
export -f sources_hash carried_file make_programs ours test_on_gpu run losses resume_across same_bits too_large
export -f compare_with_transformers sanitize

rm -rf $logs
mkdir -p $logs
check "programs for sm_${arch/./}" make_programs "${arch/./}" tests
if (($# > 0 && failed == 0)); then
  status=0
  for name in "$@"; do TEST_DEVICE=cuda ours "$build/$name" || status=1; done
  exit $status
fi
if ((failed == 0)); then
  for name in "${names[@]}"; do check "test_$name" test_on_gpu "test_$name"; done
  check "a run begun on the CPU goes on on the GPU" resume_across cpu cuda
  check "a run begun on the GPU goes on on the CPU" resume_across cuda cpu
  check "the same bits" same_bits
  check "the same bits, algorithms chosen by time" same_bits --tune-matmul 8
  check "out of memory" too_large
  if python3 -c 'import torch, transformers, safetensors' 2>/dev/null; then
    check "against transformers" compare_with_transformers
  else
    record "against transformers" skipped 0 "python3 with torch, transformers and safetensors is not here"
  fi
  check test_resume test_on_gpu test_resume # some eighty runs of the program, each of which opens the GPU
  for tool in memcheck racecheck; do
    for binary in test_device test_row_ops test_adamw test_attention test_two_devices; do
      if command -v compute-sanitizer >/dev/null; then
        check "$tool of $binary" sanitize "$tool" "$binary"
      else
        record "$tool of $binary" skipped 0 "compute-sanitizer is not here"
      fi
    done
  done
fi

date=$(date -u +%F)
result=bench/results/gpu-check-$(tr -cs 'A-Za-z0-9\n' - <<<"$device")-$date.json
mkdir -p bench/results
cat >"$result" <<END
{
  "device": "$device", "compute_capability": "$arch", "driver": "$driver", "date": "$date",
  "commit": "$(commit_of_programs)", "nvcc": "$(nvcc --version 2>/dev/null | grep -o 'release [0-9.]*')",
  "seconds": $SECONDS, "passed": $passed, "failed": $failed, "skipped": $skipped,
  "checks": [$rows
  ]
}
END
echo "results in $result"
echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0))
