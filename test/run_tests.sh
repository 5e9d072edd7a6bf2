#!/usr/bin/env bash
# Runs cmocka test binaries from the root of the repository and adds up what they report.
#
#   test/run_tests.sh BINARY...
#
# LEAVE_OUT="NAME ...": binaries that this run leaves out, loudly; each counts as one skipped.
# A binary that crashes, takes more than 300 s (TEST_LIMIT_S) or is stopped by a sanitizer counts as at least one failure, and
# so do its tests that did not get to run. The last line is "N passed, N failed, N skipped"; the exit status is
# 1 when any failed.
set -u
cd "$(dirname "$0")/.." || exit 1
readonly limit_s=${TEST_LIMIT_S:-300}
# The tests' parallel regions are tiny: on a busy machine, threads that spin at their ends cost minutes.
export OMP_WAIT_POLICY=passive
if (($# == 0)); then
  echo "run_tests.sh: found no test binary, expected at least one; \`make test\` builds them and names them." >&2
  exit 1
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT

passed=0 failed=0 skipped=0
device_tests=0 device_binaries=

# Times that a word of cmocka's report occurs in the log.
count() { grep -aoF -- "$1" "$log" | wc -l; }

for binary in "$@"; do
  name=$(basename "$binary")
  if [[ " ${LEAVE_OUT:-} " == *" $name "* ]]; then
    echo "SKIPPED $name: left out of this run (LEAVE_OUT)"
    skipped=$((skipped + 1))
    continue
  fi
  start=$(date +%s.%N)
  timeout --kill-after=10 "$limit_s" "$binary" >"$log" 2>&1
  status=$?
  seconds=$(date +%s.%N | awk -v start="$start" '{ printf "%.1f", $1 - start }')

  # What was announced and is neither OK nor skipped failed, or was never reached.
  announced=$(grep -aoE '\[==========\] Running [0-9]+ test' "$log" | awk '{ n += $3 } END { print n + 0 }')
  ok=$(count '[       OK ] ')
  skip=$(grep -aE '^\[  SKIPPED \] ' "$log" | grep -avE '\] [0-9]+ test\(s\)' | sort -u | wc -l)
  bad=$((announced - ok - skip))
  if ((status != 0 && bad <= 0)) || ((announced == 0)); then bad=1; fi
  if ((bad < 0)); then bad=0; fi

  note=
  if ((status == 124 || status == 137)); then note=" (stopped after $limit_s s)"
  elif ((status > 128)); then note=" (ended by signal $((status - 128)))"
  elif ((announced == 0)); then note=" (ran no test)"
  elif ((status != 0 && announced == ok + skip)); then note=" (exit status $status after its tests)"
  fi
  if ((bad > 0)); then
    cat "$log"
    printf 'FAILED  %-28s %3d passed, %d failed, %d skipped, %s s%s\n' "$name" "$ok" "$bad" "$skip" "$seconds" "$note"
  else
    printf 'ok      %-28s %3d passed, %d skipped, %s s\n' "$name" "$ok" "$skip" "$seconds"
    grep -a '^SKIPPED' "$log" # in the test's own words
  fi
  passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + skip))

  # Tests in .cu files run operations on a device, all but those that emulate blocks or a library.
  if [[ -e test/$name.cu && $name != test_block && $name != test_flash && $name != test_matmul_plan ]] && ((announced > skip)); then
    device_tests=$((device_tests + announced - skip))
    device_binaries+=" $name"
  fi
done

if [[ ${TEST_DEVICE:-cpu} == cpu ]] && ((device_tests > 0)); then
  cat <<END

SKIPPED on the cuda device: this run was on the CPU. The $device_tests tests of the binaries that compute on a
device did not run on a GPU:$device_binaries
They count as skipped once more. On a machine with a GPU, \`make gpu-check\` runs them there.

END
  skipped=$((skipped + device_tests))
fi

echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0))
