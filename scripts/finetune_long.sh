#!/usr/bin/env bash
# Fine-tunes a Hugging Face model on a JSONL or text file, at a length of your choice, without Python but for the plot:
# ./tokenize -> ./train_llama -> a Hugging Face folder.
#
#   scripts/finetune_long.sh --model DIR --data FILE.jsonl|FILE.txt --out DIR --seq-len N
#                            [--field KEY | --prompt-field KEY --completion-field KEY] [--epochs N] [--lr X]
#                            [--batch N] [--grad-accum N] [--val-fraction X] [-- FLAG...]
#
#   --field KEY           the text of an object of a JSONL file                            [text]
#   --prompt-field KEY    with --completion-field: prompts are read, but not trained on
#   --epochs N            how often the data are gone through                              [1]
#   --lr X                highest learning rate; cosine, after a warm-up of a thirtieth    [2e-5]
#   --batch N --grad-accum N   sequences a micro-batch, micro-batches a step               [1, 1]
#   --val-fraction X      part of the documents that is evaluated on, if it is a sequence  [0.05]
#   FLAG...               flags of ./train_llama, e.g. -- --dtype bf16 --rope-scaling yarn --rope-factor 4
#
# Makes OUT/data (token shards), OUT/run (log, saved states), OUT/model (what transformers loads, and --generate) and
# OUT/loss.png (where python3 and gnuplot are there). The same command goes on where the last one stopped. Exit
# status: 0 done, 1 something failed, 2 the flags or the input cannot be used. BIN=FOLDER says where the two programs are.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/common.sh"

model='' data='' out='' seq_len='' field='' prompt='' completion='' lr=2e-5 epochs=1 batch=1 accum=1 val=0.05
while (($#)); do
  flag=$1
  shift
  [[ $flag == -- ]] && break
  if [[ $flag == --help ]]; then
    print_usage
    exit 0
  fi
  value=${flag#*=}
  if [[ $flag != *=* ]]; then
    (($#)) || fail "$flag: found no value. --help lists the flags."
    value=$1
    shift
  fi
  case ${flag%%=*} in
  --model) model=$value ;;
  --data) data=$value ;;
  --out) out=$value ;;
  --seq-len) seq_len=$value ;;
  --field) field=$value ;;
  --prompt-field) prompt=$value ;;
  --completion-field) completion=$value ;;
  --epochs) epochs=$value ;;
  --lr) lr=$value ;;
  --batch) batch=$value ;;
  --grad-accum) accum=$value ;;
  --val-fraction) val=$value ;;
  *) fail "${flag%%=*}: there is no such flag. Flags of ./train_llama come after --; --help lists these." ;;
  esac
done

for name in model data out seq_len; do
  [[ -n ${!name} ]] || fail "--${name/_/-}: found none, expected one. --help lists the flags."
done
# Ki and Mi as ./train_llama takes them
if [[ $seq_len =~ ^([0-9]{1,9})(Ki|Mi|K|M)?$ ]]; then
  case ${BASH_REMATCH[2]} in
  K) factor=1000 ;; Ki) factor=1024 ;; M) factor=1000000 ;; Mi) factor=1048576 ;; *) factor=1 ;;
  esac
  seq_len=$((10#${BASH_REMATCH[1]} * factor))
else
  fail "--seq-len: found \"$seq_len\", expected a number of tokens, such as 8192 or 32Ki."
fi
for name in epochs batch accum; do
  [[ ${!name} =~ ^[1-9][0-9]{0,8}$ ]] ||
    fail "--${name/accum/grad-accum}: found \"${!name}\", expected a whole number from 1 on."
done
((seq_len > 0)) || fail "--seq-len: found 0, expected a number of tokens, such as 8192 or 32Ki."
[[ -d $model ]] || fail "--model $model: found no folder, expected a Hugging Face folder."
for file in config.json tokenizer.json; do
  [[ -f $model/$file ]] || fail "--model $model: found no $file in it."
done
[[ -f $data ]] || fail "--data $data: found no file, expected JSONL or text."
[[ $data == *.jsonl || $data == *.txt ]] ||
  fail "--data $data: expected a name that ends in .jsonl, an object a line, or in .txt."
[[ ${prompt:+given} == "${completion:+given}" ]] || fail "--prompt-field and --completion-field go together."
[[ -z $field || -z $prompt ]] || fail "--field is for texts, --prompt-field for pairs: give one of them."

bin=${BIN:-$(dirname "$0")/..}
need_program tokenize train_llama

fields=()
[[ $data == *.jsonl ]] && fields=(--field "${field:-text}")
[[ -n $prompt ]] && fields=(--prompt-field "$prompt" --completion-field "$completion")
mkdir -p "$out"
"$bin/tokenize" --tokenizer "$model" --input "$data" "${fields[@]}" --val-fraction "$val" --out "$out/data"

# Tokens in the shards of a kind: their files, less a header of 1024 bytes each, at 4 bytes a token.
tokens() {
  local bytes=0 file
  for file in "$out/data/$1"-*.bin; do
    [[ -f $file ]] && bytes=$((bytes + $(stat -c %s "$file") - 1024))
  done
  echo $((bytes / 4))
}
train=$(tokens train) held_out=$(tokens val)
((train > seq_len)) ||
  fail "--data $data: found $train tokens to train on, expected more than --seq-len, which is $seq_len."
steps=$((epochs * ((train - 1) / seq_len) / (batch * accum)))
((steps > 0)) || steps=1
flags=(--lr "$lr" --min-lr 0 --warmup $((steps / 30)) --weight-decay 0)
if ((held_out > seq_len)); then
  flags+=(--val "$out/data/val-*.bin" --eval-every $((steps > 10 ? steps / 10 : 1)))
else
  echo "# no evaluation: $held_out tokens are held out, fewer than a sequence"
fi
drop_given flags "$@"
"$bin/train_llama" --model "$model" --train "$out/data/train-*.bin" --seq-len "$seq_len" --batch "$batch" \
  --grad-accum "$accum" --steps "$steps" --out "$out/run" --keep 2 --resume "${flags[@]}" "$@"

newest=
for state in "$out"/run/step-*/; do
  [[ -f ${state}DONE ]] && newest=$state
done
[[ -n $newest ]] || fail "found no saved state in $out/run: nothing was trained." 1
rm -rf "$out/model.tmp"
mkdir "$out/model.tmp"
for file in "$newest"*; do
  case ${file##*/} in
  optimizer* | trainer.json | DONE) ;;
  *) cp "$file" "$out/model.tmp/" ;;
  esac
done
rm -rf "$out/model"
mv "$out/model.tmp" "$out/model"
if command -v python3 >/dev/null && command -v gnuplot >/dev/null; then
  "$(dirname "$0")/plot_run.py" "$out/run" -o "$out/loss.png"
else
  echo "# no plot: it needs python3 and gnuplot (scripts/install_deps.sh)"
fi
echo "$out/model: the model after ${newest%/}; try $bin/train_llama --model $out/model --generate TEXT"
