#!/usr/bin/env bash
# Registers, stack and spills of every CUDA kernel, held against the committed table. `make ptxas-check` runs it
# with the build's flags in NVCC and NVCCFLAGS; needs nvcc, no GPU.
#
#   test/ptxas_check.sh [--update]
#
# Fails when a kernel spills or uses more of anything than the table says, or when the table lacks it; --update
# writes the table anew. Another release of nvcc allocates other registers: then only spills are held against it.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1
readonly table=test/ptxas_table.txt
export nvcc=${NVCC:-nvcc}
if ! command -v "$nvcc" >/dev/null; then
  echo "SKIPPED ptxas-check: nvcc is not here."
  exit 0
fi
export flags=${NVCCFLAGS:?the flags of the build; run make ptxas-check}
release=$("$nvcc" --version | grep -o 'release [0-9.]*')

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export work
readonly measured=$work/measured
# shellcheck disable=SC2016 # expanded by the shells that xargs starts
printf '%s\n' src/*/*.cu | xargs -P "$(nproc)" -I{} bash -c \
  '"$nvcc" -fatbin -x cu $flags -Xptxas -v -o /dev/null {} >"$work/$(basename {}).log" 2>&1' || {
  cat "$work"/*.log
  echo "ptxas-check: a file does not compile" >&2
  exit 1
}

# One line a kernel and chip: "chip registers stack spill name", the name without the arguments, which repeat
# what the template says.
cat "$work"/*.log | c++filt | awk '
  /Compiling entry function/ {
    chip = $NF; gsub(/\047/, "", chip)
    name = $0; sub(/^[^\047]*\047/, "", name); sub(/\047 for \047.*$/, "", name); sub(/^void /, "", name)
    gsub(/\([A-Za-z_]+\)/, "", name); sub(/\(.*/, "", name); gsub(/ >/, ">", name)
  }
  /bytes stack frame/ { stack = $1; spill = $5 + $9 }
  /Used [0-9]+ registers/ {
    match($0, /Used [0-9]+/)
    print chip, substr($0, RSTART + 5, RLENGTH - 5), stack, spill, name
  }' | LC_ALL=C sort -k5 -k1,1 >"$measured"

if [[ ${1:-} == --update ]]; then
  { echo "# nvcc $release; chip, registers, bytes of stack, bytes spilled, kernel"; cat "$measured"; } >"$table"
  echo "ptxas-check: $table now holds $(wc -l <"$measured") lines."
  exit 0
fi

same=0
if grep -q "^# nvcc $release;" "$table"; then same=1; fi
((same)) || echo "ptxas-check: $table was made by another nvcc than this $release: only spills are compared."
awk -v same=$same '
  { key = $1; for (i = 5; i <= NF; i++) key = key " " $i }
  NR == FNR { if ($1 != "#") { registers[key] = $2; stack[key] = $3; spill[key] = $4 }; next }
  !(key in registers) { print "  not in the table: " $0; bad++; next }
  $4 > spill[key] || (same && ($2 > registers[key] || $3 > stack[key])) {
    print "  " $0 "\n    the table: registers " registers[key] ", stack " stack[key] ", spill " spill[key]; bad++
  }
  END { exit bad > 0 }
' "$table" "$measured" || {
  echo "ptxas-check: these kernels use more than $table says. If that is meant: make ptxas-check UPDATE=1" >&2
  exit 1
}
echo "ptxas-check: $(wc -l <"$measured") kernels keep to $table."
