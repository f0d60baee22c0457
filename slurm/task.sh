#!/usr/bin/env bash
#SBATCH --requeue --open-mode=append --signal=B:USR1@60
# One task of the array: trains the cell in line SLURM_ARRAY_TASK_ID of cells.txt, with make's variables as submitted.
#   task.sh FOLDER [MAKE VARIABLE...]
# Preempted, or its node lost, Slurm starts it again and training goes on from its checkpoint. A minute before the time
# limit (USR1) it asks for that itself, provided that something was saved since it started: else it would for ever.
set -euo pipefail
read -r cell folder < <(sed -n "${SLURM_ARRAY_TASK_ID}p" "$1/cells.txt")
folder=$1/../../$folder
shift
saved() { (cat "$folder"/{unfinished/,}history.csv "$folder/record.json" 2>/dev/null || :) | cksum; }
before=$(saved)

time_is_up() {
  if [ "$(saved)" != "$before" ]; then
    echo "== $cell: the time limit is near, what is saved goes on in the next turn"
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" # one task's SLURM_JOB_ID is that of the whole array
    wait # until Slurm ends all of it: without this shell, not every way of tracking processes would find the others
  else
    trap '' TERM
    kill 0
    wait
    echo "error: $cell saved no epoch within the time limit, give it longer: SBATCH=\"--time=...\""
  fi
  exit 1
}
trap time_is_up USR1

echo "== $cell: job $SLURM_JOB_ID on $(hostname), start ${SLURM_RESTART_COUNT:-0}, $(date '+%F %T')"
make --no-print-directory "cell/$cell" "$@" SETUP= &
wait $! # bash runs a trap at once only while it waits
