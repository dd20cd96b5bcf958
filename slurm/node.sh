#!/usr/bin/env bash
# What srun starts: `check` once on each node; `train`, or the ranks of `gan-dist doctor` (`doctor`), once on each node
# (torchrun) or once for each rank (srun). slurm/lib.sh sets the variables.
set -uo pipefail

what=$1
shift

if [[ -e $GAN_DIST_TOLD ]]; then # the signal came before this step could receive it
    exit 75
fi

# Slurm may have bound a rank to its own cores; otherwise the ranks of a node share them.
if [[ $what != check && $GAN_DIST_LAUNCHER == srun && -z ${OMP_NUM_THREADS:-} ]]; then
    own=$(nproc)
    share=$((${SLURM_CPUS_ON_NODE:-$own} / PROCESSES))
    OMP_NUM_THREADS=$((share < 1 ? 1 : share < own ? share : own))
fi
# shellcheck source=launch/env.sh
source "$GAN_DIST_CODE/launch/env.sh"
program=("$GAN_DIST_CODE/gan_dist/train.py")
if [[ $what == doctor ]]; then
    program=(-m gan_dist.doctor.ranks)
    export PYTHONPATH=$GAN_DIST_CODE PYTHONSAFEPATH=1 # use the copy, wherever the job was submitted
fi
# Lines reach the job's log at once. srun --unbuffered would use a terminal for that, on which programs draw bars.
export PYTHONUNBUFFERED=1
# A folder of the node itself, for indexes and copies of remote shards, where data.cache names none.
[[ -z ${SLURM_TMPDIR:-} ]] || export GAN_DIST_CACHE=${GAN_DIST_CACHE:-$SLURM_TMPDIR/gan_dist}
if [[ $what == check ]]; then
    # shellcheck disable=SC2086
    PYTHONPATH=$GAN_DIST_CODE exec ${GAN_DIST_WRAP:-} python -P -m gan_dist.doctor.node_reports "$@"
fi
# Slurm's TERM at the end goes to every process: the launcher must live until its ranks have saved.
if [[ $GAN_DIST_LAUNCHER == torchrun ]]; then
    # shellcheck disable=SC2086
    exec ${GAN_DIST_WRAP:-} torchrun --nnodes "$GAN_DIST_NODES" --nproc-per-node "$PROCESSES" \
        --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$GAN_DIST_HEAD:$GAN_DIST_PORT" \
        --max-restarts 0 "${program[@]}" "$@"
fi
export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID LOCAL_WORLD_SIZE=$PROCESSES
# A rank takes the GPU of its number on the node, or the only one that the site lets it see.
if [[ ${CUDA_VISIBLE_DEVICES:-} =~ ^[^,]+$ && ${SLURM_GPUS_ON_NODE:-0} -ge $PROCESSES ]]; then
    LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 # as if it had its own machine
fi
export MASTER_ADDR=$GAN_DIST_HEAD MASTER_PORT=$GAN_DIST_PORT
# shellcheck disable=SC2086
exec ${GAN_DIST_WRAP:-} python "${program[@]}" "$@"
