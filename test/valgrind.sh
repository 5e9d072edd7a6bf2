#!/usr/bin/env bash
# A short run that saves, its resumption and refusals under valgrind: no error, nothing lost.
#
#   test/valgrind.sh PROGRAM
set -u
program=$1
command -v valgrind >/dev/null || { echo "make valgrind: found no valgrind, install its package." >&2; exit 2; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
# one thread, and plain instructions in OpenBLAS: valgrind emulates no AVX-512
export OMP_NUM_THREADS=1 OPENBLAS_CORETYPE=Haswell

# watched STATUS ARGUMENTS...: what train_llama must end with, and its flags
watched() {
  local expected=$1 status
  shift
  valgrind --quiet --error-exitcode=99 --leak-check=full --show-leak-kinds=definite,indirect \
    --errors-for-leak-kinds=definite,indirect "$program" "$@" >"$out/said" 2>&1
  status=$?
  if ((status == expected)); then return; fi
  cat "$out/said"
  echo "valgrind: $program $* ended with $status, expected $expected" >&2
  exit 1
}

# the header of version 1, and 4000 tokens below 71, the vocabulary of the model
python3 -c 'import struct, sys
ids = [i * i % 71 for i in range(4000)]
sys.stdout.buffer.write(struct.pack("<256i", 20240520, 1, len(ids), *[0] * 253) + struct.pack(f"<{len(ids)}H", *ids))' \
  >"$out/data.bin"
small=(--model test/fixtures/llama3.2 --train "$out/data.bin" --val "$out/data.bin" --seq-len 32 --batch 2)
watched 0 "${small[@]}" --steps 4 --stop-after 2 --save-every 1 --keep 1 --out "$out/run" --recompute layer
watched 0 "${small[@]}" --steps 4 --out "$out/run" --resume --mlp-chunk 16 --head-chunk 16
watched 2 "${small[@]}" --seed 2 --steps 4 --out "$out/run" --resume
watched 2 "${small[@]}" --train "$out/none*.bin" --out "$out/other"
echo "valgrind: no error, nothing lost in 4 runs"
