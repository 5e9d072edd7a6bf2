#!/usr/bin/env bash
# Everything that can only be proven on a GPU, in at most 8 minutes: builds for that chip, runs the tests of
# operations and models on it, holds the CPU against it, lets a run go on from one device to the other, and runs
# compute-sanitizer on small tests. Results go to bench/results/gpu-check-DEVICE-DATE.json. Needs the CUDA
# toolkit; the comparison with transformers also needs python3 with torch and transformers. What is not here is
# skipped, and said so. The last line is "N passed, N failed, N skipped".
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
readonly limit_s=480 build=build/gpu-check
make=${MAKE:-make}

query() { nvidia-smi --query-gpu="$1" --format=csv,noheader -i 0 2>/dev/null; }
if ! device=$(query name); then
  echo "gpu-check: SKIPPED, there is no NVIDIA GPU here (nvidia-smi lists none)."
  echo "0 passed, 0 failed, 1 skipped"
  exit 0
fi
arch=$(query compute_cap)
driver=$(query driver_version)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat README.md docs/*.md >"$work/text.txt"
passed=0 failed=0 skipped=0
rows= # of the JSON

# record NAME RESULT SECONDS NOTE: a row of the results
record() {
  rows+="${rows:+,}
    {\"check\": \"$1\", \"result\": \"$2\", \"seconds\": $3, \"note\": \"${4//\"/\'}\"}"
  printf '%-8s %s (%d s) %s\n' "$2" "$1" "$3" "$4"
  case $2 in passed) ((passed++)) ;; failed) ((failed++)) ;; *) ((skipped++)) ;; esac
}

# check NAME COMMAND...: passes when the command succeeds, is skipped when it takes too long. Its last line becomes the note; its output is shown
# when it fails.
check() {
  local name=$1 start=$SECONDS left=$((limit_s - SECONDS)) status
  shift
  if ((left < 5)); then
    record "$name" skipped 0 "no time was left of $limit_s s"
    return
  fi
  timeout --kill-after=10 "$left" bash -o pipefail -c '"$@"' "$name" "$@" >"$work/log" 2>&1
  status=$?
  if ((status == 124)); then
    record "$name" skipped $((SECONDS - start)) "it did not finish in its time"
  elif ((status == 0)); then
    record "$name" passed $((SECONDS - start)) "$(tail -n 1 "$work/log")"
  else
    cat "$work/log"
    record "$name" failed $((SECONDS - start)) "exit status $status: $(tail -n 1 "$work/log")"
  fi
}

build() { "$make" -j"$(nproc)" CUDA=1 ARCH="${arch/./}" BUILD=$build tests; }

# The binaries of tests that compute on a device, and those that run whole trainings.
tests_on_gpu() {
  local binaries=() source
  for source in test/test_*.cu test/test_resume.c; do
    source=$(basename "$source")
    binaries+=("$build/${source%.*}")
  done
  TEST_DEVICE=cuda BUILD=$build test/run_tests.sh "${binaries[@]}"
}

# run DEVICE FLAGS...: a short fp32 training of the demo on a device
run() {
  local device=$1
  shift
  "$build/train_llama" --device "$device" --dtype fp32 --steps 8 --sample-every 0 "$@"
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

# Out of device memory is an error that names sizes and flags.
too_large() {
  "$build/train_llama" --device cuda --model llama3-70b --train "$work/text.txt" --seq-len 1Ki >"$work/large" 2>&1
  local status=$?
  cat "$work/large"
  ((status == 1)) && grep -q 'cannot allocate .* are free; use .*--seq-len' "$work/large"
}

# On the model that the runs above have saved.
compare_with_transformers() {
  local model=$work/straight-cpu/step-00000008 dtype
  for dtype in fp32 bf16; do
    "$build/train_llama" --device cuda --model "$model" --train "$work/text.txt" --seq-len 256 --batch 2 \
      --dtype $dtype --dump-grads "$work/$dtype.safetensors" || return 1
  done
  python3 scripts/compare_with_transformers.py "$model" "$work/fp32.safetensors" --tolerance 1e-5 &&
    python3 bench/compare_bf16.py "$model" "$work/bf16.safetensors"
}

# Errors that calls of the runtime return, as an allocation that is too large, are none of the sanitizer's.
sanitize() { # TOOL BINARY
  local options=(--tool "$1" --error-exitcode 9)
  [[ $1 != memcheck ]] || options+=(--report-api-errors no)
  TEST_DEVICE=cuda timeout 60 compute-sanitizer "${options[@]}" "$build/$2"
}

# `check` runs them in a shell of its own, which can be stopped when the time is up.
export build work arch make
export -f build tests_on_gpu run losses resume_across too_large compare_with_transformers sanitize

check "build for sm_${arch/./}" build
if ((failed == 0)); then
  check "tests on the GPU" tests_on_gpu
  check "a run begun on the CPU goes on on the GPU" resume_across cpu cuda
  check "a run begun on the GPU goes on on the CPU" resume_across cuda cpu
  check "out of memory" too_large
  if python3 -c 'import torch, transformers, safetensors' 2>/dev/null; then
    check "against transformers" compare_with_transformers
  else
    record "against transformers" skipped 0 "python3 with torch, transformers and safetensors is not here"
  fi
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
commit=$(git rev-parse HEAD 2>/dev/null || echo unknown)
[[ -z $(git status --porcelain --untracked-files=no 2>/dev/null) ]] || commit+=", with changes"
mkdir -p bench/results
cat >"$result" <<END
{
  "device": "$device", "compute_capability": "$arch", "driver": "$driver", "date": "$date", "commit": "$commit",
  "nvcc": "$(nvcc --version | grep -o 'release [0-9.]*')", "seconds": $SECONDS,
  "passed": $passed, "failed": $failed, "skipped": $skipped,
  "checks": [$rows
  ]
}
END
echo "results in $result"
echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0))
