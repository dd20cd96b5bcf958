#!/usr/bin/env bash
# For sites that forbid requeue: N jobs, each after the one before, whatever became of it; those that find the run
# finished end at once.
#
#   slurm/chain.sh N [sbatch options] slurm/train.sbatch configs/x.yaml [--key.path value ...]
set -euo pipefail

if [[ ! ${1:-} =~ ^[1-9][0-9]*$ || $# -lt 2 ]]; then
    sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
count=$1
shift
job=""
for ((number = 1; number <= count; number++)); do
    job=$(sbatch --parsable --no-requeue --export=ALL,GAN_DIST_NO_REQUEUE=1 ${job:+--dependency=afterany:"$job"} "$@")
    job=${job%%;*}
    echo "$job"
done
