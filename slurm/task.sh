#!/usr/bin/env bash
#SBATCH --requeue --open-mode=append --signal=B:USR1@60
# Trains runs as one Slurm array.
#   task.sh submit RUNS COMMAND...   as `make slurm` calls it: RUNS is what `status --todo` prints,
#                                    COMMAND trains a run; OUTPUTS, SBATCH (options of sbatch) and
#                                    THROTTLE as given to make
#   task.sh LIST COMMAND...          one task: the run in line SLURM_ARRAY_TASK_ID of LIST
# Preempted, or its node lost, Slurm starts a task again and training goes on from its checkpoint.
# A minute before the time limit (USR1) it asks for that itself, provided that something was saved
# since it started: otherwise it would do so for ever.
set -euo pipefail

submit() {
  local runs=$1 folder queued
  shift
  [ -n "$runs" ] || { echo "== nothing to submit: all of these runs are done"; exit; }
  queued=$(squeue --me --noheader --name=cifarlib)
  if [ -n "$queued" ]; then
    echo "error: jobs of the name cifarlib are queued or running (squeue --me): wait, or" \
      "scancel --me --name=cifarlib" >&2
    exit 1
  fi
  folder=$(realpath -m "$OUTPUTS")/slurm/$(date +%Y%m%d-%H%M%S) # Slurm makes no folder for its logs
  mkdir -p "$folder"
  echo "$runs" >"$folder/runs.txt"
  eval "set -- $SBATCH"' --array="1-$(wc -l <"$folder/runs.txt")${THROTTLE:+%$THROTTLE}" \
    --job-name=cifarlib --output="$folder/%a.log" slurm/task.sh "$folder/runs.txt" "$@"'
  unset MAKEFLAGS MAKELEVEL # sbatch hands its environment on
  sbatch "$@"
  echo "== $(wc -l <"$folder/runs.txt") runs, logs in $folder; make status tells what is done"
}
[ "$1" != submit ] || { shift; submit "$@"; exit; }

IFS=$'\t' read -r run folder < <(sed -n "${SLURM_ARRAY_TASK_ID}p" "$1")
shift
saved() {
  (cat "$folder"/{unfinished/,}history.csv "$folder/record.json" 2>/dev/null || :) | cksum
}
before=$(saved)

time_is_up() {
  if [ "$(saved)" != "$before" ]; then
    echo "== $run: the time limit is near, what is saved goes on in the next turn"
    # one task's SLURM_JOB_ID is that of the whole array
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
    # until Slurm ends all of it: without this shell it might not find the other processes
    wait
  else
    trap '' TERM
    kill 0
    wait
    echo "error: $run saved no epoch within the time limit, give it longer: SBATCH=\"--time=...\""
  fi
  exit 1
}
trap time_is_up USR1

echo "== $run: job $SLURM_JOB_ID on $(hostname), start ${SLURM_RESTART_COUNT:-0}, $(date '+%F %T')"
"$@" --unless-done --run "${run%/*}" --seed "${run#*/}" &
wait $! # bash runs a trap at once only while it waits
