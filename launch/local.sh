#!/usr/bin/env bash
# Trains on this machine: launch/local.sh N [flags of alexnet_dist.train], on N ranks, or
#                        launch/local.sh --layout auto [flags of alexnet_dist.train]
#
# --layout auto measures for some seconds how many ranks of how many threads are fastest here, prints the command line and
# starts it. With N, the cores are divided among the ranks, and no rank is bound to one core, which its threads would share.
# Ctrl-C or SIGTERM: the run writes a checkpoint and ends with exit code 75; a second one ends it at once.

# Open MPI kills its ranks a quarter of a second after SIGTERM; SIGUSR1 it passes on, as MPICH does. Job control gives
# mpirun a process group of its own, so that Ctrl-C reaches it through here only.
# shellcheck disable=SC2317  # the trap calls it
stop() {
    stopped=1
    ((job)) || job=${!:-0}
    ((job)) || nothing_to_save
    # Before mpirun is told: the second signal may come as soon as a rank shows that it has got the first one.
    trap 'kill -INT "$job" 2>/dev/null || true; signalled=1' TERM INT HUP # it may just have ended
    trap 'signalled=1' USR1 # whoever repeats it, as a supervisor does, asks for nothing new
    # Again and again until mpirun ends: a rank that is just starting MPI doesn't notice.
    while kill -USR1 "$job"; do sleep 0.5; done 2>/dev/null &
    disown
    signalled=1
}
# shellcheck disable=SC2317
nothing_to_save() {
    echo "${0##*/}: stopped before training began: there is nothing to save" >&2
    exit 75
}
job=0 stopped=0
trap stop TERM INT HUP USR1 # before there is a job: mpirun may be up before the line after it is read

# shellcheck source-path=SCRIPTDIR
source "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/common.sh"

help_if_asked "$@"
ranks=${1:-}
if [[ $ranks == --layout ]]; then
    [[ ${2:-} == auto ]] || die "--layout is '${2:-}', but must be auto; for a number of ranks: launch/local.sh N"
    shift
elif [[ ! $ranks =~ ^[1-9][0-9]*$ ]]; then
    die "how many ranks? Usage: launch/local.sh N|--layout auto [flags of alexnet_dist.train]"
fi
shift

[[ ! -x $venv/bin/python ]] || activate
if ! command -v mpirun >/dev/null || ! python -c 'import alexnet_dist' 2>/dev/null; then
    # Not 2: it may be that the environment's storage doesn't answer, and a supervisor should try again.
    end 1 "alexnet_dist and mpirun are not installed here: run launch/demo.sh once, or see the README"
fi

if [[ $ranks == --layout ]]; then
    line=$(python -m alexnet_dist.layout "$@") || exit
    eval "command=($line)" # the words are quoted for a shell
else
    # What this process may use: nproc heeds its affinity, cpu.max is its container's quota ("200000 100000": 2 cores).
    # (Without OMP_NUM_THREADS, which clusters set to 1, and which nproc heeds, too.)
    cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
    if read -r quota period 2>/dev/null </sys/fs/cgroup/cpu.max && [[ $quota != max ]] && ((quota / period < cores)); then
        cores=$((quota > period ? quota / period : 1))
    fi
    threads=$((cores > ranks ? cores / ranks : 1))
    ((ranks <= cores)) || echo "${0##*/}: $ranks ranks take turns on $cores core$( ((cores == 1)) || echo s), and are slower than $cores would be" >&2

    command=(mpirun)
    is_open_mpi && command+=(--bind-to none)
    if is_open_mpi && [[ " $* " == *" --elastic "* ]]; then
        command+=(--with-ft ulfm --mca mpi_ft_detector true)  # the detector of ranks that are stopped
    fi
    command+=(-n "$ranks" python -m alexnet_dist.train --threads "$threads" "$@")
fi
printf '+%s\n' "$(printf ' %q' "${command[@]}")"

set -m
# If this script is killed, the kernel tells mpirun to stop the run: else it would train on without anyone knowing.
! command -v setpriv >/dev/null || command=(setpriv --pdeathsig USR1 "${command[@]}")
"${command[@]}" </dev/null &
job=$!
# A signal ends `wait`, not mpirun: wait again until nothing but mpirun's own end has ended it.
signalled=1
while ((signalled)); do
    signalled=0 status=0
    wait "$job" || status=$?
done
# mpirun (128 + 10) or a rank has died of SIGUSR1 (10): only before they heed it, and so before training has begun. MPICH's
# mpirun gives 11 where it has killed another rank for it: 10 | 9, all ranks' codes in one.
if ((stopped)) && [[ $status =~ ^(10|11|138)$ ]]; then
    nothing_to_save
fi
exit "$status"
