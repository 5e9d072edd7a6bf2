# shellcheck shell=bash
# What scripts that start ./train_llama share; they source it.

fail() {
  echo "${0##*/}: $1" >&2
  exit "${2:-2}"
}

# print_usage: the comment at the top of the script
print_usage() {
  sed -n '2,/^[^#]/{/^[^#]/d;s/^# \{0,1\}//;p}' "$0"
}

# need_program NAME...: programs that `make` builds, in the folder $bin
need_program() {
  local program
  : "${bin:?}"
  for program in "$@"; do
    [[ -x $bin/$program ]] || fail "found no program $bin/$program. Run make first." 1
  done
}

# drop_given ARRAY FLAG...: takes out of the array, flags with a value each, what FLAG... gives otherwise
drop_given() {
  local -n pairs=$1
  local given i
  for given in "${@:2}"; do
    for ((i = 0; i < ${#pairs[@]}; i += 2)); do
      if [[ ${given%%=*} == "${pairs[i]}" ]]; then
        pairs=("${pairs[@]:0:i}" "${pairs[@]:i+2}")
        break
      fi
    done
  done
}
