#!/usr/bin/env bash
#SBATCH --job-name=train_llama
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=train_llama-%j.log
#SBATCH --signal=B:TERM@300
# A run on a cluster that pre-empts: SLURM sends SIGTERM 300 s before the end (--signal) or when another job needs the
# place; train_llama finishes its step, saves and ends with 0; the job is put back into the queue and goes on where it
# was. Nothing changes from start to start, so that the same job can also be submitted again by hand.
#
#   sbatch scripts/slurm_preempt.sh --model DIR --train 'data/*.bin' --steps 10000 --out RUN
#
# Of the flags, --out is needed. Leave more than the time of a step and of a save between --signal and the end; a node
# that fails without a word costs the steps since the last save. TRAIN_LLAMA=PROGRAM takes another program.
set -u

out=
for ((i = 1; i <= $#; i++)); do
  case ${!i} in
    --out) next=$((i + 1)); out=${!next-} ;;
    --out=*) out=${!i#--out=} ;;
  esac
done
if [[ -z $out ]]; then
  echo "slurm_preempt.sh: found no --out among the flags, expected the run's folder: the state is saved there." >&2
  exit 2
fi

flags=(--resume) # what the job asks for itself stands
[[ " $* " == *" --save-every"* ]] || flags+=(--save-every 500)
[[ " $* " == *" --keep"[\ =]* ]] || flags+=(--keep 2)
"${TRAIN_LLAMA:-./train_llama}" "${flags[@]}" "$@" &
program=$!
asked=0
# SIGHUP, not SIGTERM: SLURM may have sent that one to the program as well, and a second one would end it at once
trap 'asked=1; kill -HUP "$program"' TERM
wait "$program"
status=$?
if ((asked)); then # it was the signal that ended the wait
  wait "$program"
  status=$?
fi
# 129 and 143: it was still loading, where a hangup or SIGTERM ends it
if ((asked && (status == 0 || status == 129 || status == 143))) && [[ -n ${SLURM_JOB_ID-} ]]; then
  echo "slurm_preempt.sh: stopped in time; job $SLURM_JOB_ID goes back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
