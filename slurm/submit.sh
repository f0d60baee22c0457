#!/usr/bin/env bash
# Submits a grid: one array for the cells that Slurm does not hold yet, and the report after all of them.
#   submit.sh FOLDER CELLS REPORT [SBATCH OPTION...] -- [MAKE VARIABLE...]
# CELLS: what `python -m cifarlib.grid --slurm --todo` prints, `run/seed folder [task]` a line. REPORT: a target of make.
set -euo pipefail
unset MAKEFLAGS MAKELEVEL # sbatch hands its environment on, and the job slots of the make that called this are gone by then
folder=$(realpath "$1") cells=$2 report=$3
shift 3
options=()
while [ "$1" != -- ]; do options+=("$1"); shift; done
shift
new=$(awk 'NF == 2' <<<"$cells") queued=$(awk 'NF == 3 { printf ":%s", $3 }' <<<"$cells")
if [ -z "$new" ]; then
  echo "== nothing to submit: $(awk 'NF == 3' <<<"$cells" | wc -l) runs are queued or running, all others are done"
  exit
fi
jobs=$folder/$(date +%Y%m%d-%H%M%S-%3N) # never two of one name
mkdir "$jobs"                          # Slurm makes no folder for its logs: such a job would fail without a word
echo "$new" >"$jobs/cells.txt"
n=$(wc -l <"$jobs/cells.txt")
# after the user's options: --comment is how a later `make status` knows these jobs
array=$(sbatch --parsable --job-name=cifarlib "${options[@]}" --array="1-$n" --comment="$jobs" \
  --output="$jobs/%a.log" slurm/task.sh "$jobs" "$@") || { rm -r "$jobs"; exit 1; }
array=${array%;*} # a federation adds its cluster's name
echo "== array job $array: $n runs, logs in $jobs"
# afterok of the tasks already queued too; a report whose runs failed is dropped, not left in the queue for ever
job=$(sbatch --parsable --job-name=cifarlib-report "${options[@]}" --dependency="afterok:$array$queued" \
  --kill-on-invalid-dep=yes --comment="$jobs" --output="$jobs/report.log" \
  --wrap "$(printf '%q ' make --no-print-directory "$report" "$@" SETUP=)")
echo "== job ${job%;*}: make $report, once all of them are done"
