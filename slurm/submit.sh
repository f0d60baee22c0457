#!/usr/bin/env bash
# Submits a grid: one array for the cells that Slurm does not hold yet, and the report after all of them.
#   submit.sh FOLDER CELLS REPORT OPTIONS [MAKE VARIABLE...]
# CELLS: what `python -m cifarlib status --slurm --todo` prints, `run/seed folder [task]` a line. REPORT: a target of make.
# OPTIONS: of sbatch, in one text; quotes in it hold words together, and no other character means anything.
set -euo pipefail
unset MAKEFLAGS MAKELEVEL # sbatch hands its environment on, and the job slots of the make that called this are gone by then
folder=$(realpath "$1") cells=$2 report=$3
words=$(xargs -rn1 printf '%s\n' 2>/dev/null <<<"$4") || { echo "error: SBATCH=$4: a quote is not closed" >&2; exit 1; }
shift 4
options=()
while read -r option; do
  case $option in
    '') continue ;;
    --array* | -a* | -M* | --cluster*) # the array is the grid's, and `make status` asks this cluster alone
      echo "error: SBATCH=\"$option\" cannot be given; THROTTLE=4 lets 4 runs train at once" >&2 && exit 1 ;;
  esac
  options+=("$option")
done <<<"$words"
new=$(awk 'NF == 2' <<<"$cells") queued=$(awk 'NF == 3 { printf ":%s", $3 }' <<<"$cells")
waiting=$(squeue --noheader --format='%K %k' | grep '^N/A ' || :) # of this folder's jobs, the report alone is no array
if [ -z "$new" ] && grep -qF "$folder/" <<<"$waiting"; then
  echo "== nothing to submit: $(awk 'NF == 3' <<<"$cells" | wc -l) runs are queued or running, all others are done"
  exit
fi
jobs=$folder/$(date +%Y%m%d-%H%M%S-%3N) # never two of one name
mkdir "$jobs"                          # Slurm makes no folder for its logs: such a job would fail without a word
after=$queued
if [ -n "$new" ]; then
  echo "$new" >"$jobs/cells.txt"
  n=$(wc -l <"$jobs/cells.txt")
  # after the user's options: --comment is how a later `make status` knows these jobs
  array=$(sbatch --parsable --job-name=cifarlib "${options[@]}" --array="1-$n${THROTTLE:+%$THROTTLE}" --comment="$jobs" \
    --output="$jobs/%a.log" slurm/task.sh "$jobs" "$@") || { rm -r "$jobs"; exit 1; }
  array=${array%;*} # a federation adds its cluster's name
  echo "== array job $array: $n runs, logs in $jobs"
  after=:$array$queued
fi
# afterok of the tasks already queued too; a report whose runs failed is dropped, not left in the queue for ever
job=$(sbatch --parsable --job-name=cifarlib-report "${options[@]}" ${after:+--dependency="afterok$after"} \
  --kill-on-invalid-dep=yes --comment="$jobs" --output="$jobs/report.log" \
  --wrap "$(printf '%q ' make --no-print-directory "$report" "$@" SETUP=)") ||
  { echo "error: the report is not queued; the same command again queues it after the runs" >&2; exit 1; }
echo "== job ${job%;*}: make $report, once all of them are done"
