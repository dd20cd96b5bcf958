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

# How Slurm's commands name this job: the bare number of an array's task may mean the whole array.
job=${SLURM_JOB_ID:-none}
[[ -z ${SLURM_ARRAY_JOB_ID:-} ]] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
# The copy of the code for the job, made at its first start, or when it was submitted (GAN_DIST_CODE).
jobs=${GAN_DIST_JOBS:-$root/.slurm}
code=${GAN_DIST_CODE:-$jobs/$job/code}
if [[ ${ENVIRONMENT:-} != BATCH && -z ${GAN_DIST_CODE:-} ]]; then # by hand in an allocation: the code as it is now
    code=$jobs/$job-$(date +%H%M%S)-$$/code
fi
if [[ ${ENVIRONMENT:-} == BATCH && -z ${GAN_DIST_CODE:-} && ${SLURM_RESTART_COUNT:-0} -eq 0 && -d $code ]] &&
    [[ ! ${BASH_SOURCE[0]} -ef $code/slurm/lib.sh ]]; then # of an older job: Slurm counts from 1 again
    mv "$jobs/$job" "$jobs/$job.before-$(date +%Y%m%dT%H%M%S)"
fi
if [[ -f $code/slurm/lib.sh && ! ${BASH_SOURCE[0]} -ef $code/slurm/lib.sh ]]; then # an edit must not change later starts
    # shellcheck source=slurm/lib.sh
    source "$code/slurm/lib.sh"
    return
fi

say() { echo "[$(date +%H:%M:%S) ${SLURMD_NODENAME:-$(hostname)}] $*"; }

# Runs the copy of the code, in the foreground: the decisions are in gan_dist/slurm_jobs/requeue.py.
decide() { PYTHONPATH=$code python -P -m gan_dist.slurm_jobs.batch "$@"; }

copy_code() { [[ -d $code ]] || PYTHONPATH=$root python -P -m gan_dist.slurm_jobs.code "$root" "$code" || exit $?; }

activate() {
    if [[ -n ${GAN_DIST_SETUP:-} ]]; then
        set +u # a site's scripts may use unset variables
        eval "$GAN_DIST_SETUP"
        set -u
    fi
    local venv=${GAN_DIST_VENV:-$root/.venv}
    [[ ! -d $venv/bin ]] || export PATH="$venv/bin:$PATH"
}

# Prints the smallest number of a list as Slurm writes it: 8(x2),7
least() { tr ',' '\n' <<<"$1" | sed 's/(.*//' | sort -n | head -n 1; }

# Prints the GPUs of a node: the smallest number that any of the job's nodes has.
gpus_per_node() {
    local nodes=$1 own=${SLURM_GPUS_ON_NODE:-0} found
    if [[ ${ENVIRONMENT:-} == BATCH && ($nodes -eq 1 || $own -eq 0) ]]; then
        echo "$own"
        return
    fi
    # other nodes, and the shell of salloc, may have other numbers: each node prints its own, in a step of the shape that the
    # job asked for (a step of fewer tasks gets fewer GPUs, where the job asked for GPUs for each task); a prolog may print too
    # shellcheck disable=SC2016
    found=$(srun --export=ALL bash -c 'echo "GPUs: ${SLURM_GPUS_ON_NODE:-0}"' | sed -n 's/^GPUs: \([0-9]*\)$/\1/p' | sort -n)
    if [[ -z $found ]]; then
        say "the nodes did not report how many GPUs they have: $own of each are used, as on this node" >&2
        echo "$own"
        return
    fi
    own=$(head -n 1 <<<"$found")
    [[ $own == "$(tail -n 1 <<<"$found")" ]] ||
        say "the nodes have different numbers of GPUs ($(sort -nu <<<"$found" | tr '\n' ' ')): $own of each are used" >&2
    echo "$own"
}

# Prints the training processes on each node.
processes_per_node() {
    local gpus=$1
    if [[ -n ${GAN_DIST_PROCESSES:-} ]]; then
        echo "$GAN_DIST_PROCESSES"
    elif ((gpus > 0)); then
        echo "$gpus"
    else
        least "${SLURM_TASKS_PER_NODE:-1}"
    fi
}

# Sets `tasks`, what srun starts: one task on each node with all its cores, or one for each rank with its share of them.
tasks_of() {
    local launcher=$1 nodes=$2 processes=$3 gpus=$4 cores threads each
    tasks=(--export=ALL --ntasks="$nodes" --ntasks-per-node=1)
    cores=$(least "${SLURM_JOB_CPUS_PER_NODE:-1}")
    if [[ $launcher == srun ]]; then
        threads=$(lscpu 2>/dev/null | sed -n 's/^Thread(s) per core: *//p')
        each=$((cores / processes))
        ((each <= ${threads:-1})) || each=$((each - each % ${threads:-1})) # Slurm gives whole cores
        tasks=(--export=ALL --ntasks="$((nodes * processes))" --ntasks-per-node="$processes")
    else
        each=$cores
    fi
    if ((each < 1)); then
        tasks+=(--overcommit)
    else
        tasks+=(--cpus-per-task="$each")
    fi
    # all GPUs of the node, where the job asked for GPUs for each task
    ((gpus == 0)) || tasks+=(--gpus-per-node="$gpus")
}

# Forgets the tasks that sbatch was given: they would contradict the steps' own options.
forget_tasks() {
    unset SLURM_CPUS_PER_TASK SLURM_TRES_PER_TASK SLURM_GPUS SLURM_GPUS_PER_NODE SLURM_GPUS_PER_TASK SLURM_GPUS_PER_SOCKET \
        SLURM_NTASKS SLURM_NPROCS SLURM_NTASKS_PER_NODE SLURM_NTASKS_PER_GPU SLURM_NTASKS_PER_SOCKET SLURM_NTASKS_PER_CORE \
        SLURM_EXPORT_ENV
}

# Prints a port of the first node that nothing listens on, and that another job there is unlikely to take.
free_port() {
    local head=$1 port=$((20000 + SLURM_JOB_ID % 10000))
    while timeout 2 bash -c ": <>/dev/tcp/$head/$port" 2>/dev/null; do
        port=$((port + 1))
    done
    echo "$port"
}

# Passes a signal on to the steps. Slurm warns only the batch shell (B:), and scancel signals the steps without the shell. A
# step that is just being created receives no signal: it finds the file (node.sh).
tell() {
    # a second signal during this handler makes bash 5.2 report "unexpected EOF" and forget both
    trap '' USR2 TERM INT
    told=1
    say "$2"
    : >"$GAN_DIST_TOLD"
    scancel --signal="$1" "$job"
    [[ $1 != USR2 || -n $guard ]] || guard_end
    listen
}

listen() {
    trap 'tell USR2 "warned: the time of this job ends soon; saving"' USR2
    trap 'tell TERM "told to end; saving"' TERM INT
}

# Kills what has not ended half a minute before the time limit (earlier after a late warning): at the limit Slurm would
# kill this shell, which could not requeue the job then.
guard_end() {
    local end seconds
    end=$(scontrol -o show job "$job" 2>/dev/null | sed -n 's/.* EndTime=\([^ ]*\) .*/\1/p' | head -n 1)
    end=$(date -d "${end:-unknown}" +%s 2>/dev/null) || return 0
    seconds=$((end - $(date +%s)))
    seconds=$((seconds > 90 ? seconds - 30 : seconds * 2 / 3))
    ((seconds > 0)) || return 0
    # The guard reads until the sleep, which holds the pipe's other end, is over. Both are this shell's own children, so that
    # stop_guard ends both: a sleep inside the guard would outlive it.
    local pipe
    exec {pipe}< <(exec sleep "$seconds" 2>/dev/null)
    nap=$!
    (
        read -r -u "$pipe"
        trap - USR2 TERM INT
        say "not saved in time: the next start goes on from the checkpoint before"
        kill_steps
    ) &
    guard=$!
    exec {pipe}<&-
}

# KILL: what was started while signals were ignored ignores them too.
stop_guard() {
    [[ -z ${guard:-} ]] || kill -KILL "$guard" "$nap" 2>/dev/null
    guard=""
}

kill_steps() {
    local step
    for step in $(squeue -h -s -j "$job" -o %i | grep -E '\.[0-9]+$'); do
        scancel --signal=KILL "$step" # the bare job would end this shell too
    done
}

# Waits for a program in the background: while one runs in the foreground, a shell handles no signal.
attend() {
    local step=$1 result
    while true; do
        wait "$step"
        result=$?
        kill -0 "$step" 2>/dev/null || return "$result" # otherwise a signal ended the waiting
    done
}

# Checks the nodes before training takes hours: sets `answer` to "go ...", "again ..." or "stop ..."; findings go to the log.
check_nodes() {
    local tasks seconds=${GAN_DIST_CHECK:-120} reports=$code/../reports-$SLURM_JOB_ID.txt
    tasks_of torchrun "$GAN_DIST_NODES" "$PROCESSES" "$gpus" # one a node
    timeout --kill-after=5 "$seconds" srun "${tasks[@]}" \
        bash "$code/slurm/node.sh" check "$@" >"$reports" 2>&1 &
    attend $!
    # a check that did not end in time must not keep its GPU
    [[ $? -ne 124 && $? -ne 137 ]] || kill_steps
    answer=$(decide nodes "${run:-.}" --reports "$reports" --names "$(scontrol show hostnames "$SLURM_JOB_NODELIST")" \
        --processes "$PROCESSES")
}

# Decides how the job's ranks start: sets `nodes`, `gpus` and `tasks` of the caller, and the variables of node.sh.
lay_out() {
    local launcher=$1
    nodes=${SLURM_JOB_NUM_NODES:-1}
    gpus=$(gpus_per_node "$nodes")
    PROCESSES=$(processes_per_node "$gpus")
    GAN_DIST_HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    forget_tasks
    GAN_DIST_PORT=$(free_port "$GAN_DIST_HEAD")
    export GAN_DIST_CODE=$code GAN_DIST_NODES=$nodes GAN_DIST_LAUNCHER=$launcher GAN_DIST_HEAD GAN_DIST_PORT PROCESSES
    export GAN_DIST_TOLD=$code/../told-$SLURM_JOB_ID # exists once the job was told to end
    rm -f "$GAN_DIST_TOLD"
    tasks_of "$launcher" "$nodes" "$PROCESSES" "$gpus"
}

# Runs `gan-dist doctor` in a job: on the ranks that its training would have, on all its nodes.
doctor_on_slurm() {
    local nodes gpus tasks run="" told="" guard="" nap="" answer word config=()
    lay_out "${GAN_DIST_LAUNCHER:-srun}"
    if [[ $nodes -gt 1 && ${GAN_DIST_CHECK:-120} -gt 0 ]]; then # this names a node that hangs or cannot start
        for word in "$@"; do
            [[ $word == --json || $word == --numerics ]] || config+=("$word")
        done
        export GAN_DIST_UNRECORDED=1 # only the start of a training writes to the run directory
        check_nodes "${config[@]}"
        unset GAN_DIST_UNRECORDED
        [[ $answer == go* ]] || {
            say "${answer#* }"
            exit 1
        }
    fi
    GAN_DIST_RANKS=$(printf '%s\n' srun "${tasks[@]}" --kill-on-bad-exit=1 bash "$code/slurm/node.sh" doctor)
    export GAN_DIST_RANKS
    # outside a container, which has no srun; the ranks run inside
    PYTHONPATH=$code exec python -P -m gan_dist.cli doctor "$@"
}

train_on_slurm() {
    local config=${1:-} run wanted fresh nodes gpus told="" guard="" nap="" answer tasks found instead=""
    local launcher=${GAN_DIST_LAUNCHER:-srun} most=${GAN_DIST_MAX_RESTARTS:-100} code_of_srun=0
    # from here on note signals: an untrapped one would end this shell, and nothing would requeue the job
    trap 'told=1' USR2 TERM INT
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
    activate
    copy_code
    # what a person submitted once: a chain, a job with its restarts, or one call in an allocation
    export GAN_DIST_SUBMISSION=${GAN_DIST_CHAIN:-$job}
    [[ ${ENVIRONMENT:-} == BATCH ]] || GAN_DIST_SUBMISSION+="-$$"
    found=$(decide look "$@") || exit $?
    { read -r wanted fresh && read -r config && read -r run; } <<<"$found"
    set -- "$config" "${@:2}"
    ((fresh == 0)) || fresh="--fresh"
    lay_out "$launcher"

    answer=$(decide begin "$run" --wanted "$wanted" ${fresh/#0/} --code-folder "$code" --max-restarts "$most")
    say "${answer#* }"
    case $answer in
        finished*) exit 0 ;;
        go*) ;;
        *) exit 1 ;;
    esac

    export GAN_DIST_RUN=$run
    export GAN_DIST_REASONS=$code/../reasons-$SLURM_JOB_ID.txt # why ranks end before the run has a log
    rm -f "$GAN_DIST_REASONS"
    say "job $job, start $((${SLURM_RESTART_COUNT:-0} + 1)): $nodes node(s) x $PROCESSES process(es) by $launcher on $SLURM_JOB_NODELIST; run $run"

    listen
    if [[ $nodes -gt 1 && ${GAN_DIST_CHECK:-120} -gt 0 ]]; then
        check_nodes "$@"
        case $answer in
            go*) [[ -n $told ]] || say "${answer#* }" ;;
            again*) instead=${answer#* } ;; # another start may succeed
            *)
                [[ -n $told ]] || {
                    say "${answer#* }"
                    exit 1
                }
                ;;
        esac
    fi
    if [[ -z $told && -z $instead ]]; then
        srun "${tasks[@]}" --kill-on-bad-exit=1 bash "$code/slurm/node.sh" train "$@" &
        attend $!
        code_of_srun=$?
    fi
    trap '' USR2 TERM INT # the rest takes a second, and a shell that died in it would not requeue the job
    stop_guard

    answer=$(decide after "$run" --code "$code_of_srun" --max-restarts "$most" --reasons "$GAN_DIST_REASONS" \
        --instead "$instead" --facts "$(scontrol -o show job "$job" 2>/dev/null)" ${told:+--told})
    say "${answer#* }"
    case $answer in
        finished* | ended*) exit 0 ;;
        requeued*) exit 75 ;; # by Slurm itself
        requeue*)
            if [[ -n ${GAN_DIST_CHAIN:-} ]]; then # the next link goes on
                exit 75
            fi
            scontrol requeue "$job" && exit 75
            say "this job cannot be requeued: submit the same line again, or use slurm/chain.sh"
            exit 75
            ;;
        *)
            decide why "$run" --reasons "$GAN_DIST_REASONS" # the error of the rank that failed first ends this log
            exit 1
            ;;
    esac
}
