# shellcheck shell=bash
# Thread, NCCL, memory and launcher settings, in one place: sourced by run.sh and the Slurm templates.
#
# Set PROCESSES first: the training processes on this machine (default 1). What the user has set stays.

: "${PROCESSES:=1}"

# Each process gets its share of the cores. By default torch takes all of them in every process, and torchrun and accelerate
# allow one.
if [[ -z ${OMP_NUM_THREADS:-} ]]; then
    OMP_NUM_THREADS=$(($(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN) / PROCESSES))
    ((OMP_NUM_THREADS > 0)) || OMP_NUM_THREADS=1
fi
export OMP_NUM_THREADS

# Threads that wait for work spin for a moment and then sleep: a thread that spins on takes a core that another process or
# program needs. gan_dist/threads.py sets the same where training is started without this file, and says more.
if [[ -z ${OMP_WAIT_POLICY:-}${GOMP_SPINCOUNT:-}${KMP_BLOCKTIME:-}${KMP_LIBRARY:-} ]]; then
    export GOMP_SPINCOUNT=20000 KMP_BLOCKTIME=1
fi

# glibc gives every large tensor back to the system and gets it back, page by page, in the next step. With these it
# keeps blocks up to 32 MiB (the most that it accepts) and up to 512 MiB of free memory. A DCGAN discriminator on 2
# cores: 15,000 page faults a step become 400, and a step is 1.03 to 1.14 times as fast (three alternating runs).
: "${MALLOC_MMAP_THRESHOLD_:=33554432}"
: "${MALLOC_TRIM_THRESHOLD_:=536870912}"
export MALLOC_MMAP_THRESHOLD_ MALLOC_TRIM_THRESHOLD_

# GPU memory in segments that can grow: less is lost to fragments when samples and penalties change the sizes asked
# for. torch also reads PYTORCH_CUDA_ALLOC_CONF, its older name: a user who sets that one keeps it.
if [[ -z ${PYTORCH_CUDA_ALLOC_CONF:-} ]]; then
    : "${PYTORCH_ALLOC_CONF:=expandable_segments:True}"
    export PYTORCH_ALLOC_CONF
fi

# A rank that waits for a dead one fails after the time limit instead of waiting without end.
: "${TORCH_NCCL_ASYNC_ERROR_HANDLING:=1}"
export TORCH_NCCL_ASYNC_ERROR_HANDLING

# NCCL reports why it failed; without this, only that it failed.
: "${NCCL_DEBUG:=WARN}"
export NCCL_DEBUG

# torchrun and accelerate pass these signals on to the training processes. One that is missing here ends the launcher
# and leaves them running. The first four are torch's default; USR2 is how Slurm announces the end (NCCL uses USR1).
: "${PET_SIGNALS_TO_HANDLE:=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2}"
export PET_SIGNALS_TO_HANDLE

# Seconds until the launcher kills processes that it told to stop: they are writing a checkpoint. torch's default, 30,
# cuts a large one off. It is also how long a run that failed on one rank waits for ranks that hang. Older versions of
# torch do not know this setting.
: "${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:=120}"
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT

# A crash inside a C++ library shows the Python lines that led there.
: "${PYTHONFAULTHANDLER:=1}"
export PYTHONFAULTHANDLER
