#!/usr/bin/env bash
# A real N-node Slurm (munge + slurmctld + N x slurmd) on one machine, for tests.
#   cluster.sh start|stop|status|kill-node NODE|start-node NODE  DIR
# After start:  . DIR/env   (sets SLURM_CONF), then sbatch/srun/squeue/scontrol as usual.
# Needs root (munged under its own user, one UTS + mount namespace for each node so that
# `hostname` is the node's name and the node names resolve), Debian/Ubuntu apt for a missing
# package, and a build of Slurm with MULTIPLE_SLURMD=Yes (Debian's has it).
# Environment: NODES=2  CPUS=2 (each)  GPUS=2 (pretended, each)  MEM=2000 (MB, each)
#   PORT=27817 (controller; nodes listen on PORT+1..)   EXTRA=lines added to slurm.conf
set -euo pipefail
cmd=${1:-}; dir=${2:-}; arg=${3:-}
case $cmd in kill-node|start-node) arg=${2:-}; dir=${3:-};; esac
[ -n "$cmd" ] && [ -n "$dir" ] || { sed -n '2,9p' "$0"; exit 2; }
NODES=${NODES:-2} CPUS=${CPUS:-2} GPUS=${GPUS:-2} MEM=${MEM:-2000} PORT=${PORT:-27817}
mkdir -p "$dir"; dir=$(cd "$dir" && pwd -P)
[ ${#dir} -le 70 ] || { echo "directory path too long for a unix socket: $dir" >&2; exit 2; }
conf=$dir/slurm.conf; export SLURM_CONF=$conf
export PATH=$PATH:/usr/sbin:/sbin

say() { echo "cluster: $*" >&2; }
# alive PIDFILE NAME: the pid when it still runs a program of that name
alive() { local p; p=$(cat "$1" 2>/dev/null) && [ -n "$p" ] && [ "$(cat "/proc/$p/comm" 2>/dev/null)" = "$2" ] && echo "$p"; }
wait_gone() { local i; for i in $(seq 100); do [ -d "/proc/$1" ] || return 0; sleep 0.1; done; return 1; }
# end PIDFILE NAME: TERM, 10 s, KILL; by that pid only
end() {
  local p; p=$(alive "$1" "$2") || { rm -f "$1"; return 0; }
  kill -TERM "$p" 2>/dev/null || true
  wait_gone "$p" || { say "$2 ($p) did not end: KILL"; kill -KILL "$p" 2>/dev/null || true; wait_gone "$p" || true; }
  rm -f "$1"
}

installed() { command -v slurmctld && command -v slurmd && command -v munged && command -v sbatch; } >/dev/null
install_missing() (
  ! installed || return 0
  flock 9 # another cluster may be at it
  ! installed || return 0
  say "installing slurmctld slurmd slurm-client munge"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # RUNLEVEL=1: maintainer scripts must start no system-wide daemon
  RUNLEVEL=1 apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge >/dev/null
) 9>/tmp/gan_dist-slurm-install.lock

write_config() {
  local n i
  mkdir -p "$dir"/{run,state,spool,log,munge,dev,scratch}; chmod 1777 "$dir/scratch"
  chown munge: "$dir/munge"; chmod 755 "$dir/munge"
  if [ ! -s "$dir/munge/key" ]; then
    (umask 077; head -c 128 /dev/urandom >"$dir/munge/key"); chown munge: "$dir/munge/key"
  fi
  cp /etc/hosts "$dir/hosts.base"; grep -v -E '[[:space:]]node[0-9]+$' "$dir/hosts.base" >"$dir/hosts"; rm "$dir/hosts.base"
  for i in $(seq "$NODES"); do echo "127.0.0.$((10 + i)) node$i" >>"$dir/hosts"; done
  cat >"$conf" <<EOF
ClusterName=local
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmctldPort=$PORT
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$dir/munge/sock
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd-%n.pid
SlurmdSpoolDir=$dir/spool/%n
StateSaveLocation=$dir/state
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd-%n.log
SlurmctldDebug=info
SlurmdDebug=info
MailProg=/bin/true
TaskProlog=$dir/task_prolog.sh
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$dir/log/jobcomp.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=3
MessageTimeout=5
SlurmdTimeout=6
UnkillableStepTimeout=10
InactiveLimit=0
MinJobAge=3600
EOF
  for i in $(seq "$NODES"); do
    echo "NodeName=node$i NodeAddr=127.0.0.$((10 + i)) Port=$((PORT + i)) CPUs=$CPUS Boards=1 SocketsPerBoard=1 CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=$MEM Gres=gpu:$GPUS State=UNKNOWN" >>"$conf"
    mkdir -p "$dir/spool/node$i" "$dir/scratch/node$i"; chmod 1777 "$dir/scratch/node$i"
  done
  cat >>"$conf" <<EOF
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=5 State=UP
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=short Nodes=ALL MaxTime=1 PriorityTier=1 State=UP
${EXTRA:-}
EOF
  # GPUs without hardware: a character device for each (copies of /dev/null). A count with no
  # File registers 0 GPUs, and a plain file gives no CUDA_VISIBLE_DEVICES.
  for n in $(seq 0 $((GPUS - 1))); do [ -c "$dir/dev/nvidia$n" ] || mknod "$dir/dev/nvidia$n" c 1 3; done
  echo "AutoDetect=off" >"$dir/gres.conf"
  [ "$GPUS" -eq 0 ] || echo "NodeName=node[1-$NODES] Name=gpu Count=$GPUS File=$dir/dev/nvidia[0-$((GPUS - 1))]" >>"$dir/gres.conf"
  echo "CgroupPlugin=autodetect" >"$dir/cgroup.conf"
  # what many sites give: a node-local scratch folder
  cat >"$dir/task_prolog.sh" <<EOF
#!/bin/sh
d=$dir/scratch/\$SLURMD_NODENAME/\$SLURM_JOB_ID
mkdir -p "\$d"; echo "export SLURM_TMPDIR=\$d"
EOF
  chmod 755 "$dir/task_prolog.sh"
  echo "export SLURM_CONF=$conf" >"$dir/env"
}

start_node() {
  [ -z "$(alive "$dir/run/slurmd-$1.pid" slurmd || true)" ] || return 0
  rm -f "$dir/run/slurmd-$1.pid"
  # own hostname, own /etc/hosts; the rest of the machine is shared
  (cd / && unshare --uts --mount sh -c 'hostname "$1"; mount --bind "$2/hosts" /etc/hosts; exec slurmd -N "$1" -f "$2/slurm.conf"' sh "$1" "$dir" </dev/null >>"$dir/log/start-$1.out" 2>&1) \
    || { tail -5 "$dir/log/start-$1.out" "$dir/log/slurmd-$1.log" >&2; return 1; }
}

case $cmd in
start)
  [ "$(id -u)" = 0 ] || { say "needs root"; exit 2; }
  install_missing
  write_config
  if ! alive "$dir/munge/pid" munged >/dev/null; then
    setpriv --reuid munge --regid munge --clear-groups munged --key-file="$dir/munge/key" --socket="$dir/munge/sock" \
      --pid-file="$dir/munge/pid" --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" --force 2>/dev/null
  fi
  munge -S "$dir/munge/sock" -n | unmunge -S "$dir/munge/sock" >/dev/null
  alive "$dir/run/slurmctld.pid" slurmctld >/dev/null || (cd / && slurmctld -f "$conf" </dev/null >>"$dir/log/start-ctl.out" 2>&1)
  for i in $(seq "$NODES"); do start_node "node$i"; done
  for _ in $(seq 150); do
    if [ "$(timeout 5 sinfo -h -N -p main -o '%T' 2>/dev/null | grep -c '^idle$')" -ge "$NODES" ]; then
      say "$NODES nodes idle; . $dir/env"; exit 0
    fi
    sleep 0.1
  done
  say "nodes not idle after 15 s"; timeout 5 sinfo -N -o '%N %T %E' >&2 || true; grep -h error "$dir"/log/*.log | tail -20 >&2; exit 1
  ;;
stop)
  if alive "$dir/run/slurmctld.pid" slurmctld >/dev/null; then
    # end the jobs first, or their slurmstepds outlive the daemons
    ids=$(timeout 5 squeue -h -o %A 2>/dev/null | sort -u || true)
    [ -z "$ids" ] || timeout 10 scancel $ids || true
    for _ in $(seq 100); do [ -n "$(timeout 5 squeue -h 2>/dev/null)" ] || break; sleep 0.1; done
  fi
  # the controller first: it would spend seconds on talking to nodes that are gone
  end "$dir/run/slurmctld.pid" slurmctld
  for f in "$dir"/run/slurmd-*.pid; do p=$(alive "$f" slurmd || true); [ -z "$p" ] || kill -TERM "$p" 2>/dev/null || true; done
  for f in "$dir"/run/slurmd-*.pid; do [ ! -e "$f" ] || end "$f" slurmd; done
  end "$dir/munge/pid" munged
  # what is left of this directory's steps (a killed node's), found by its spool folder and ended by pid
  for p in $(grep -l -s slurmstepd /proc/[0-9]*/comm | cut -d/ -f3); do
    tr '\0' '\n' <"/proc/$p/environ" 2>/dev/null | grep -qx "SLURM_CONF=$conf" && kill -KILL "$p" 2>/dev/null || true
  done
  rm -rf "$dir/state" "$dir/spool"
  say stopped
  ;;
status)
  for f in "munge/pid munged" "run/slurmctld.pid slurmctld"; do set -- $f; echo "$2 $(alive "$dir/$1" "$2" || echo -)"; done
  for f in "$dir"/run/slurmd-*.pid; do [ ! -e "$f" ] || echo "$(basename "$f" .pid) $(alive "$f" slurmd || echo -)"; done
  timeout 5 sinfo -N -o '%N %P %T %G %E' ; timeout 5 squeue
  ;;
kill-node)   # as a power cut: daemon and steps of that node, at once
  p=$(alive "$dir/run/slurmd-$arg.pid" slurmd) || { say "$arg is not up"; exit 1; }
  ns=$(readlink "/proc/$p/ns/uts")
  for q in /proc/[0-9]*; do q=${q#/proc/}; [ "$(readlink "/proc/$q/ns/uts" 2>/dev/null)" = "$ns" ] && kill -KILL "$q" 2>/dev/null || true; done
  rm -f "$dir/run/slurmd-$arg.pid"
  ;;
start-node) start_node "$arg";;
*) sed -n '2,9p' "$0"; exit 2;;
esac
