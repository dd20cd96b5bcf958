#!/usr/bin/env bash
# Trains: on all GPUs of this machine, else on the CPU. The same command again goes on where the run stopped.
#
#   ./launch/run.sh CONFIG [--key.path value ...]
#
#   ./launch/run.sh configs/digits.yaml                            the first run: no data, no GPU, no account needed
#   ./launch/run.sh configs/mnist.yaml --training.images 600000
#   ./launch/run.sh configs/digits.yaml --help                     all keys
#
#   PROCESSES=2    so many processes (default: one for each GPU; on the CPU one, with all cores)
#   PYTHON, GAN_DIST_VENV: see launch/setup.sh; threads, NCCL and memory: see launch/env.sh
set -euo pipefail

here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd -P)
train=${here%/*}/gan_dist/train.py
venv=${GAN_DIST_VENV:-${here%/*}/.venv}
[[ $venv == /* ]] || venv=$PWD/$venv

fail() {
    echo "error: $*" >&2
    exit 2
}

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"; }

case ${1:-} in
    "") usage >&2 && exit 2 ;;
    -h | --help) usage && exit ;;
esac
[[ ${PROCESSES:-1} =~ ^[1-9][0-9]*$ ]] || fail "PROCESSES=$PROCESSES is not a number of processes"

"$here/setup.sh" --quiet
export PATH="$venv/bin:$PATH"

# GPUs to use. A config that asks for the CPU needs none, and one process reports what is wrong with a config.
gpus=$(
    python -I - "$@" <<'PYTHON'
import contextlib
import io
import sys

from gan_dist.config import load
from gan_dist.errors import InputError

try:
    with contextlib.redirect_stdout(io.StringIO()):
        device = load(sys.argv[1:]).training.device
except (InputError, SystemExit):
    print("none")
else:
    import torch

    print(0 if device == "cpu" else torch.cuda.device_count())
PYTHON
)
if [[ $gpus == none ]]; then
    exec python "$train" "$@"
fi
if ((gpus > 0)); then
    : "${PROCESSES:=$gpus}"
    ((PROCESSES <= gpus)) || fail "PROCESSES=$PROCESSES, but this machine has $gpus GPU(s); one process for each at most"
fi

# shellcheck source=launch/env.sh
source "$here/env.sh"

if ((PROCESSES == 1)); then
    # No launcher: `accelerate launch` of one process dies of the signals that should reach the training, and turns
    # its exit code into a traceback.
    exec python "$train" "$@"
elif ((gpus > 0)); then
    # port 0: a free one, so that two runs on one machine do not collide
    exec python "$here/ranks.py" accelerate --multi_gpu --num_processes "$PROCESSES" --num_machines 1 --main_process_port 0 \
        --mixed_precision no --dynamo_backend no "$train" "$@"
else
    # not accelerate: with --cpu it starts one process, however many are asked for
    exec python "$here/ranks.py" torchrun --standalone --nproc-per-node "$PROCESSES" "$train" "$@"
fi
