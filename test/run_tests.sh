#!/usr/bin/env bash
# Runs cmocka test binaries from the root of the repository and adds up what they report, in their order.
#
#   test/run_tests.sh BINARY...
#
# LEAVE_OUT="NAME ...": binaries that this run leaves out, loudly; each counts as one skipped.
# TEST_JOBS: how many run at a time; two, since many have one thread, but one on a GPU.
# A binary that crashes, takes more than 600 s (TEST_LIMIT_S) or is stopped by a sanitizer counts as at least one failure, and
# so do its tests that did not get to run. The last line is "N passed, N failed, N skipped"; the exit status is
# 1 when any failed.
set -u
cd "$(dirname "$0")/.." || exit 1
readonly limit_s=${TEST_LIMIT_S:-600}
if [[ ${TEST_DEVICE:-cpu} == cpu ]] && (($(nproc --all) > 1)); then jobs=${TEST_JOBS:-2}; else jobs=${TEST_JOBS:-1}; fi
# The tests' parallel regions are tiny: on a busy machine, threads that spin at their ends cost minutes.
export OMP_WAIT_POLICY=passive
if (($# == 0)); then
  echo "run_tests.sh: found no test binary, expected at least one; \`make test\` builds them and names them." >&2
  exit 1
fi

binaries=("$@")
folder=$(mktemp -d)
running=()
trap '((${#running[@]})) && kill "${running[@]}" 2>/dev/null; wait; rm -rf "$folder"' EXIT
trap 'exit 1' INT TERM

passed=0 failed=0 skipped=0
device_tests=0 device_binaries=

left_out() { [[ " ${LEAVE_OUT:-} " == *" $(basename "$1") "* ]]; }

# Leaves what the binary printed in $folder/NAME.log and, once that is whole, how it ended in $folder/NAME.
run_one() {
  local name start status
  name=$(basename "$1")
  start=$(date +%s.%N)
  # what runs in the background ignores the signals of the keyboard, which some tests send to the program
  timeout --kill-after=10 "$limit_s" env --default-signal=INT,QUIT "$1" >"$folder/$name.log" 2>&1 &
  # shellcheck disable=SC2064 # the process that was just begun
  trap "kill $!" TERM
  wait $!
  status=$?
  date +%s.%N | awk -v start="$start" -v status=$status '{ printf "%d %.1f\n", status, $1 - start }' >"$folder/$name.part"
  mv "$folder/$name.part" "$folder/$name"
}

# Times that a word of cmocka's report occurs in the log.
count() { grep -aoF -- "$1" "$log" | wc -l; }

# Says how one that ran came off, and adds it up.
report() {
  local announced ok skip bad note status seconds
  name=$(basename "$1") log=$folder/$(basename "$1").log
  read -r status seconds <"$folder/$name"

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
}

# Reports those that are done and whose turn it is.
reported=0
report_done() {
  while ((reported < ${#binaries[@]})); do
    local binary=${binaries[reported]}
    if left_out "$binary"; then
      echo "SKIPPED $(basename "$binary"): left out of this run (LEAVE_OUT)"
      skipped=$((skipped + 1))
    elif [[ -e $folder/$(basename "$binary") ]]; then
      report "$binary"
    else
      return
    fi
    reported=$((reported + 1))
  done
}

wait_for_one() {
  local pid still=()
  wait -n
  for pid in "${running[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then still+=("$pid"); fi
  done
  running=("${still[@]}")
  report_done
}

for binary in "${binaries[@]}"; do
  if left_out "$binary"; then continue; fi
  while ((${#running[@]} >= jobs)); do wait_for_one; done
  run_one "$binary" &
  running+=($!)
done
while ((${#running[@]})); do wait_for_one; done
report_done
if ((reported < ${#binaries[@]})); then
  echo "FAILED  $(basename "${binaries[reported]}") and what comes after it: the run was cut off"
  failed=$((failed + 1))
fi

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
