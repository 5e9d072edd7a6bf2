#!/usr/bin/env bash
# Fetches a sample of FineWeb-Edu and makes token shards of it; --help says more.
set -euo pipefail
name=fineweb_edu
about="FineWeb-Edu: educational pages of the web (Penedo et al., arXiv 2406.17557), sample-10BT, from Hugging Face.
Size: about 5 kB a document, 50 MB for the 10,000 of the default. Licence: ODC-By 1.0, and Common Crawl's terms of use.
The collection itself is Parquet, which needs a library to read; this takes its first documents as JSON, 100 at a
time, from Hugging Face's viewer, and is meant for samples. For billions of tokens, convert its Parquet files to JSONL
elsewhere and give them to ./tokenize."
own=--documents own_value=10000 own_help="documents, in hundreds"
# shellcheck source=scripts/data/common.sh
source "$(dirname "$0")/common.sh"
begin "$@"
needs jq

rows='https://datasets-server.huggingface.co/rows?dataset=HuggingFaceFW%2Ffineweb-edu&config=sample-10BT&split=train'
for ((at = 0; at < own_value; at += 100)); do
  page=$(printf '%s/raw/%08d' "$out" "$at")
  if [[ -s $page.jsonl ]]; then continue; fi
  fetch "$rows&offset=$at&length=100" "$page.json"
  jq -c '.rows[] | select(.truncated_cells == []) | {text: .row.text}' "$page.json" >"$page.part" ||
    reject "$page.json" "jq cannot read rows with a text in it"
  [[ -s $page.part ]] || reject "$page.json" "there is no document in it"
  mv "$page.part" "$page.jsonl"
  rm "$page.json"
  sleep "${PAUSE:-0.2}" # the viewer limits how often it answers
done
finish --input "$out/raw/*.jsonl" --val-fraction 0.01
