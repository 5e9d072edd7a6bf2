# shellcheck shell=bash disable=SC2154
# What the scripts of this folder share; they source it. A script sets `name` (of its data), `about` (what they are,
# their size and licence) and calls begin "$@"; then it fetches, checks, and calls finish with flags of ./tokenize.
# It sets `own` before when it has a flag of its own, "--books" for instance, whose value becomes $own_value.

fail() {
  echo "$name.sh: $1" >&2
  exit "${2:-2}"
}

usage() {
  echo "scripts/data/$name.sh --tokenizer DIR [--out DIR]${own:+ [$own N]} [-- FLAG...]"
  echo
  echo "$about"
  echo
  echo "  --tokenizer DIR   folder with a tokenizer.json, of the model that is to be trained"
  echo "  --out DIR         where the text goes (DIR/raw) and the shards (DIR/tokens)   [data/$name]"
  if [[ -n ${own-} ]]; then echo "  $own N   $own_help   [$own_value]"; fi
  echo "  FLAG...           flags of ./tokenize, such as --shard-tokens 10M"
  echo
  echo "What was fetched is not fetched again. Exit status: 0 done, 1 something failed, 2 the flags cannot be used or"
  echo "the data cannot be fetched. BIN=FOLDER says where ./tokenize is."
}

begin() {
  tokenizer='' out=data/$name
  while (($#)); do
    case $1 in
    --help)
      usage
      exit 0
      ;;
    --)
      shift
      break
      ;;
    esac
    if (($# < 2)); then fail "$1: found no value. --help lists the flags."; fi
    case $1 in
    --tokenizer) tokenizer=$2 ;;
    --out) out=$2 ;;
    "${own:---}")
      [[ $2 =~ ^[1-9][0-9]{0,7}$ ]] || fail "$own: found \"$2\", expected a whole number from 1 on."
      own_value=$2
      ;;
    *) fail "$1: there is no such flag. --help lists the flags." ;;
    esac
    shift 2
  done
  tokenize_flags=("$@")
  [[ -n $tokenizer ]] || fail "--tokenizer: found none, expected a folder with a tokenizer.json."
  [[ -f $tokenizer/tokenizer.json || -f $tokenizer ]] || fail "--tokenizer $tokenizer: found no tokenizer.json."
  tokenize=${BIN:-$(dirname "$0")/../..}/tokenize
  [[ -x $tokenize ]] || fail "found no program $tokenize. Run make first." 1
  needs curl
  echo "$about"
  mkdir -p "$out/raw"
}

needs() {
  command -v "$1" >/dev/null || fail "found no $1, expected it. On Debian and Ubuntu: apt-get install $1."
}

# fetch URL FILE: FILE is there afterwards, whole.
fetch() {
  local progress=(--silent --show-error) status=0
  if [[ -s $2 ]]; then return; fi
  if [[ -t 2 ]]; then progress=(--progress-bar); fi
  curl --fail --location --retry 3 --connect-timeout 20 --continue-at - "${progress[@]}" --output "$2.part" "$1" ||
    status=$?
  if ((status)); then
    fail "$1 cannot be fetched (curl ended with status $status). This needs a network. If there is one, try again
later; what has come is kept in $2.part, remove it to begin anew."
  fi
  mv "$2.part" "$2"
}

# Text that is not what was expected is put aside, so that the next call fetches it again.
reject() {
  mv "$1" "$1.rejected"
  fail "$1 is not what was expected: $2. It was renamed to $1.rejected; try again, or see whether the source has changed." 1
}

# finish FLAG VALUE ...: what the caller asked for takes the place of a flag of the same name.
finish() {
  local flags=() given
  while (($#)); do
    for given in "${tokenize_flags[@]}"; do
      if [[ ${given%%=*} == "$1" ]]; then shift 2 && continue 2; fi
    done
    flags+=("$1" "$2")
    shift 2
  done
  "$tokenize" --tokenizer "$tokenizer" --out "$out/tokens" "${flags[@]}" "${tokenize_flags[@]}"
  local val=("$out"/tokens/val-*.bin)
  if [[ -f ${val[0]} ]]; then val=(" --val '$out/tokens/val-*.bin'"); else val=(''); fi
  echo "train with: --train '$out/tokens/train-*.bin'${val[0]}"
}
