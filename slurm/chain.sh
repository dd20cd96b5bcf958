#!/usr/bin/env bash
# For sites that forbid requeue: submits N jobs. Each starts after the one before, however that ended; jobs that find the
# run finished end at once. All run the code as it is now.
#
#   slurm/chain.sh N [sbatch options] slurm/train.sbatch configs/x.yaml [--key.path value ...]
set -euo pipefail

if [[ ! ${1:-} =~ ^[1-9][0-9]*$ || $# -lt 2 ]]; then
    sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
count=$1
shift
root=${GAN_DIST_ROOT:-$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd -P)}
# shellcheck source=slurm/lib.sh
source "$root/slurm/lib.sh"
activate
GAN_DIST_CHAIN=chain-$(date +%Y%m%d-%H%M%S)-$$
export GAN_DIST_ROOT=$root GAN_DIST_CHAIN GAN_DIST_CODE=${GAN_DIST_CODE:-$jobs/$GAN_DIST_CHAIN/code}
configs=() # the words between the template and the first key
for word in "$@"; do
    case $word in
        *.sbatch) configs=("") ;;
        -*) [[ ${#configs[@]} -eq 0 ]] || break ;;
        *) [[ ${#configs[@]} -eq 0 ]] || configs+=("$word") ;;
    esac
done
PYTHONPATH=$root python -P -m gan_dist.slurm_jobs.code "$root" "$GAN_DIST_CODE" "${configs[@]:1}" >/dev/null

job=""
for ((number = 1; number <= count; number++)); do
    job=$(sbatch --parsable --no-requeue --export=ALL ${job:+--dependency=afterany:"$job"} "$@")
    job=${job%%;*}
    echo "$job"
done
