#!/usr/bin/env bash
# A training job for PBS Pro and OpenPBS, handed in from the project's folder, with the flags of train in a variable:
#
#   ALEXNET_FLAGS="--data images.list --output-dir runs/one" qsub -v ALEXNET_FLAGS launch/pbs.sh
#
# Three minutes before its walltime ends it writes a checkpoint and hands itself in again: docs/clusters.md.
#
#PBS -N alexnet
#PBS -j oe
#PBS -r y
#PBS -l walltime=24:00:00
#PBS -l select=1:ncpus=16:mpiprocs=1
#
# Ranks: mpiprocs of each chunk; one a socket is a good start. Threads: the chunk's cores, divided among its ranks (leave
# ompthreads out).
#
#   ALEXNET_HOME      the project's folder, where the job isn't handed in from there
#   ALEXNET_REQUEUES  how often it may be handed in again (default: 100)
#   and those of launch/job.sh; name with qsub -v what you set

# PBS runs a copy of this script: it can't look beside itself.
cd -- "$PBS_O_WORKDIR" || exit
home=${ALEXNET_HOME:-$PBS_O_WORKDIR}
[[ -f $home/launch/job.sh ]] || {
    echo "pbs.sh: $home is not the project's folder: hand the job in from there, or name it with ALEXNET_HOME" >&2
    exit 2
}
# shellcheck source=launch/job.sh
source "$home/launch/job.sh"

# What PBS knows of this job: of_job Resource_List.walltime. (Its long lines go on after a tab.)
of_job() { qstat -f "$PBS_JOBID" | sed ':a; N; $!ba; s/\n\t//g' | sed -n "s/^ *$1 = //p"; }

# PBS warns nobody: the script itself sees to it that the run stops in time.
walltime=$(of_job Resource_List.walltime)
if [[ $walltime =~ ^([0-9]+):([0-9]+):([0-9]+)$ ]]; then
    left=$((10#${BASH_REMATCH[1]} * 3600 + 10#${BASH_REMATCH[2]} * 60 + 10#${BASH_REMATCH[3]} - 180))
    limit=$((left > 1 ? left : 1))
else
    echo "qstat doesn't say how long this job may take: it isn't handed in again when that is over" >&2
fi

# A line a rank; those of a host needn't be next to each other.
# shellcheck disable=SC2034  # job.sh reads it
hostfile=$PBS_NODEFILE
ranks=$(wc -l <"$hostfile")
per_node=$(sort "$hostfile" | uniq -c | awk '$1 > most { most = $1 } END { print most }')
cores=$(count_cores)
((cores <= ${NCPUS:-$cores})) || cores=$NCPUS
eval "flags=(${ALEXNET_FLAGS:-})" # the words are quoted for a shell
# shellcheck disable=SC2154  # eval has set it
train "$ranks" "$per_node" "$((cores > per_node ? cores / per_node : 1))" "${flags[@]}"

# shellcheck disable=SC2154  # job.sh sets it
((status == 75 && warned)) || exit "$status"
export ALEXNET_REQUEUED=$((${ALEXNET_REQUEUED:-0} + 1))
((ALEXNET_REQUEUED <= ${ALEXNET_REQUEUES:-100})) || end 1 "handed in again $((ALEXNET_REQUEUED - 1)) times: do so once more to go on"
again=(qsub -W "depend=afterany:$PBS_JOBID" -N "$PBS_JOBNAME" -q "$PBS_QUEUE" -l "walltime=$walltime" -l "select=$(of_job Resource_List.select)")
account=$(of_job Account_Name)
[[ -z $account ]] || again+=(-A "$account")
again+=(-v "$(compgen -e ALEXNET_ | paste -sd,)" "$home/launch/pbs.sh")
echo "The time is up, and a checkpoint written: handed in again as"
"${again[@]}" || end 1 "it can't be handed in again (see above): do so to go on"
exit 75
