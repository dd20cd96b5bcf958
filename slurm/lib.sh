# shellcheck shell=bash
# What the Slurm templates share. Needs `root`, the repository.
#
# Variables a site may set (in the environment of sbatch):
#   GAN_DIST_SETUP        a command before anything else: "module load cuda", "source /opt/env.sh"
#   GAN_DIST_WRAP         words before python, for a container: "apptainer exec --nv image.sif"
#   GAN_DIST_VENV         virtual environment (default: .venv in the repository, made by launch/setup.sh)
#   GAN_DIST_LAUNCHER     srun (default): one task a rank, no launcher. torchrun: one launcher a node
#   GAN_DIST_PROCESSES    processes a node (default: its GPUs, else the tasks a node that sbatch was told, else 1)
#   GAN_DIST_MAX_RESTARTS starts of one run after which it stops (default 100)
#   GAN_DIST_JOBS         folder for the copies of the code (default: .slurm in the repository)
#   GAN_DIST_CHECK        seconds that the check of the nodes may take before a job of several trains; 0: none (default 120)

say() { echo "[$(date +%H:%M:%S) ${SLURMD_NODENAME:-$(hostname)}] $*"; }

# Runs the copy of the code, in the foreground: the decisions are in gan_dist/cluster/requeue.py.
decide() { PYTHONPATH=$code python -P -m gan_dist.cluster.requeue "$@"; }

# A copy of the code for the job: an edit while the job waits for its next start changes nothing.
copy_code() {
    local jobs=${GAN_DIST_JOBS:-$root/.slurm}
    code=$jobs/${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}/code
    [[ -z ${GAN_DIST_CODE:-} ]] || code=$GAN_DIST_CODE # made when the job was submitted
    [[ -d $code ]] || PYTHONPATH=$root python -P -m gan_dist.cluster.code "$root" "$code" || exit $?
}

activate() {
    if [[ -n ${GAN_DIST_SETUP:-} ]]; then
        eval "$GAN_DIST_SETUP"
    fi
    local venv=${GAN_DIST_VENV:-$root/.venv}
    [[ ! -d $venv/bin ]] || export PATH="$venv/bin:$PATH"
}

# Training processes on each node.
processes_per_node() {
    if [[ -n ${GAN_DIST_PROCESSES:-} ]]; then
        echo "$GAN_DIST_PROCESSES"
    elif [[ ${SLURM_GPUS_ON_NODE:-0} -gt 0 ]]; then
        echo "$SLURM_GPUS_ON_NODE"
    elif [[ ${SLURM_GPUS_PER_NODE:-} =~ ([0-9]+)$ && ${BASH_REMATCH[1]} -gt 0 ]]; then # the shell of salloc knows no more
        echo "${BASH_REMATCH[1]}"
    else
        local tasks=${SLURM_NTASKS_PER_NODE:-1}
        echo "${tasks%%(*}"
    fi
}

# What srun is to start: one task a node for torchrun, else one a rank with its share of the node's cores.
tasks_of() {
    local launcher=$1 nodes=$2 processes=$3 cores threads each gpus=()
    # all GPUs of the node, where the job asked for some a task
    [[ ${SLURM_GPUS_ON_NODE:-0} -eq 0 ]] || gpus=(--gpus-per-node="$SLURM_GPUS_ON_NODE")
    tasks=(--ntasks="$nodes" --ntasks-per-node=1 "${gpus[@]}")
    [[ $launcher == srun ]] || return 0
    # the least that a node gives: 32(x2),16 is two nodes with 32 and one with 16
    cores=$(tr ',' '\n' <<<"${SLURM_JOB_CPUS_PER_NODE:-1}" | sed 's/(.*//' | sort -n | head -n 1)
    threads=$(lscpu 2>/dev/null | sed -n 's/^Thread(s) per core: *//p')
    each=$((cores / processes))
    ((each <= ${threads:-1})) || each=$((each - each % ${threads:-1})) # Slurm gives whole cores
    tasks=(--ntasks="$((nodes * processes))" --ntasks-per-node="$processes" "${gpus[@]}")
    if ((each < 1)); then
        tasks+=(--overcommit)
    else
        tasks+=(--cpus-per-task="$each")
    fi
    # what sbatch was told of its one task would contradict this
    unset SLURM_CPUS_PER_TASK SLURM_TRES_PER_TASK
}

# The warning comes to the batch shell alone (B:); the steps are told by scancel, which leaves the shell out. A step that
# is only being created hears no signal: it finds the file (node.sh).
tell() {
    told=1
    say "$2"
    : >"$GAN_DIST_TOLD"
    scancel --signal="$1" "$SLURM_JOB_ID"
}

# Waits for a program in the background: a shell that waits for one in the foreground hears no signal.
attend() {
    local step=$1 result
    while true; do
        wait "$step"
        result=$?
        kill -0 "$step" 2>/dev/null || return "$result" # else a signal ended the waiting
    done
}

# A minute for the nodes before the hours: answers "go ..." or "stop ...", what was found goes to the job's log.
check_nodes() {
    local tasks seconds=${GAN_DIST_CHECK:-120} reports=$code/../reports-$SLURM_JOB_ID.txt
    tasks_of torchrun "$GAN_DIST_NODES" "$PROCESSES" # one a node
    timeout --kill-after=5 "$seconds" srun "${tasks[@]}" \
        bash "$code/slurm/node.sh" check "$@" >"$reports" 2>&1 &
    attend $!
    # what did not end in time must not keep its GPU; without --batch the shell is left out
    [[ $? -ne 124 && $? -ne 137 ]] || scancel --signal=KILL "$SLURM_JOB_ID"
    answer=$(decide nodes "$GAN_DIST_RUN" --reports "$reports" --names "$(scontrol show hostnames "$SLURM_JOB_NODELIST")" \
        --processes "$PROCESSES")
}

train_on_slurm() {
    local config=${1:-} run nodes head processes told="" launcher=${GAN_DIST_LAUNCHER:-srun} answer tasks
    [[ -n $config ]] || {
        echo "error: give a config: sbatch slurm/train.sbatch configs/x.yaml" >&2
        exit 2
    }
    [[ $launcher == srun || $launcher == torchrun ]] || {
        echo "error: GAN_DIST_LAUNCHER is $launcher; it takes srun or torchrun" >&2
        exit 2
    }
    [[ -n ${SLURM_JOB_ID:-} ]] || {
        echo "error: this is no Slurm job; call sbatch slurm/train.sbatch $config, or train here: ./launch/run.sh $config" >&2
        exit 2
    }
    # from here on a signal is noted: untrapped it would end this shell, and nobody would requeue the job
    trap 'told=1' USR2 TERM INT
    activate
    copy_code
    run=$(decide directory "$@") || exit $?
    nodes=${SLURM_JOB_NUM_NODES:-1}
    head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    processes=$(processes_per_node)

    answer=$(decide begin "$run" --code-folder "$code" --max-restarts "${GAN_DIST_MAX_RESTARTS:-100}")
    say "${answer#* }"
    case $answer in
        finished*) exit 0 ;;
        stop*) exit 1 ;;
    esac

    export GAN_DIST_RUN=$run GAN_DIST_CODE=$code GAN_DIST_HEAD=$head GAN_DIST_NODES=$nodes GAN_DIST_LAUNCHER=$launcher
    export PROCESSES=$processes GAN_DIST_PORT=$((20000 + SLURM_JOB_ID % 10000))
    export GAN_DIST_REASONS=$code/../reasons-$SLURM_JOB_ID.txt # what ranks die of before the run has a log
    export GAN_DIST_TOLD=$code/../told-$SLURM_JOB_ID # is there once the job was told to end
    rm -f "$GAN_DIST_REASONS" "$GAN_DIST_TOLD"
    tasks_of "$launcher" "$nodes" "$processes"
    say "job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)): $nodes node(s) x $processes process(es) by $launcher on $SLURM_JOB_NODELIST; run $run"

    trap 'tell USR2 "warned: the time of this job ends soon; saving"' USR2
    trap 'tell TERM "told to end; saving"' TERM INT
    local code_of_srun=0
    if [[ $nodes -gt 1 && ${GAN_DIST_CHECK:-120} -gt 0 ]]; then
        check_nodes "$@"
        if [[ -z $told ]]; then
            say "${answer#* }"
            [[ $answer == go* ]] || exit 1
        fi
    fi
    if [[ -z $told ]]; then
        srun "${tasks[@]}" --kill-on-bad-exit=1 bash "$code/slurm/node.sh" train "$@" &
        attend $!
        code_of_srun=$?
    fi
    trap '' USR2 TERM INT # what is left takes a second, and a shell that died in it would requeue nothing

    answer=$(decide after "$run" --code "$code_of_srun" --max-restarts "${GAN_DIST_MAX_RESTARTS:-100}" \
        --facts "$(scontrol -o show job "$SLURM_JOB_ID" 2>/dev/null)" ${told:+--told})
    say "${answer#* }"
    case $answer in
        finished* | ended*) exit 0 ;;
        requeued*) exit 75 ;; # by Slurm itself
        requeue*)
            if [[ -n ${GAN_DIST_NO_REQUEUE:-} ]]; then # a link of a chain: the next one goes on
                exit 75
            fi
            scontrol requeue "$SLURM_JOB_ID" && exit 75
            say "this job cannot be requeued: submit the same line again, or use slurm/chain.sh"
            exit 75
            ;;
        *)
            decide why "$run" --reasons "$GAN_DIST_REASONS" # the error of the rank that failed first, last in this log
            exit 1
            ;;
    esac
}
