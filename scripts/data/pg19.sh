#!/usr/bin/env bash
# Fetches books of PG-19 and makes token shards of them; --help says more.
set -euo pipefail
name=pg19
about="PG-19: books of Project Gutenberg from before 1919 (Rae et al., arXiv 1911.05507), from DeepMind.
Size: about 0.4 MB a book; all 28,602 books to train on are 11.5 GB, the 50 to validate on 17 MB.
Licence: Apache 2.0 for the collection; the books are in the public domain in the USA."
own=--books own_value=100 own_help="books to train on, the first N of the list"
# shellcheck source=scripts/data/common.sh
source "$(dirname "$0")/common.sh"
begin "$@"

lists=https://huggingface.co/datasets/deepmind/pg19/resolve/main/data
books=https://storage.googleapis.com/deepmind-gutenberg

# Books of a split, the first N of them.
fetch_split() {
  local list=$out/raw/$1_files.txt book at=0
  fetch "$lists/$1_files.txt" "$list"
  mkdir -p "$out/raw/$1"
  # shellcheck disable=SC2094 # reject ends the script
  while read -r book && ((at < $2)); do
    [[ $book =~ ^$1/[0-9]+\.txt$ ]] || reject "$list" "it has the line \"$book\""
    fetch "$books/$book" "$out/raw/$book"
    at=$((at + 1))
  done <"$list"
  echo "# $at books of $1"
}
fetch_split validation 50
fetch_split train "$own_value"
# its own books to validate on, into a folder of their own
finish --input "$out/raw/train/*.txt" --on-invalid replace
"$tokenize" --tokenizer "$tokenizer" --out "$out/tokens-validation" --input "$out/raw/validation/*.txt" \
  --on-invalid replace "${tokenize_flags[@]}"
echo "or, with PG-19's own books to validate on: --val '$out/tokens-validation/train-*.bin'"
