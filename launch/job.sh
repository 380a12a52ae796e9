# shellcheck shell=bash
# Sourced by the batch systems' job scripts beside it: `train N PER_NODE THREADS FLAG...` runs alexnet-supervise on so many
# ranks until the run is complete or the job's time is up, and leaves its exit code in `status`. Where the batch system gives
# no warning, `limit` says after how many seconds the run has to stop; where mpirun doesn't ask it for hosts, `hostfile`
# names them. `cpus` is what srun gives a rank, hardware threads as Slurm counts them.
#
#   ALEXNET_VENV  the environment (default: .venv in the project; without one, what is on PATH)
#   ALEXNET_SRUN  srun's flags, such as --mpi=pmi2: ranks are started by srun then, and not by mpirun
#   ALEXNET_SUPERVISE  flags of alexnet-supervise, such as "--restarts 20"

# shellcheck source-path=SCRIPTDIR
source "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/common.sh"

[[ ! -x $venv/bin/python ]] || activate
python -c 'import alexnet_dist' 2>/dev/null ||
    die "alexnet_dist is not installed in $venv: run launch/demo.sh once, or name its environment with ALEXNET_VENV"

# Sockets and cores of this node. Hardware threads of a core don't count: they share what computes.
count_sockets() { lscpu --online --parse=SOCKET | grep -v '^#' | sort -u | wc -l; }
count_cores() { lscpu --online --parse=CORE,SOCKET | grep -v '^#' | sort -u | wc -l; }

limit=0 hostfile="" cpus=1

# What starts the ranks: `launcher N PER_NODE` fills the array of that name.
launcher() {
    if [[ ${ALEXNET_SRUN:-} ]]; then
        # Since Slurm 22.05, srun doesn't take a job's --cpus-per-task over.
        # shellcheck disable=SC2206  # some words
        launcher=(srun $ALEXNET_SRUN -n "$1" --ntasks-per-node="$2" --cpus-per-task="$cpus")
    elif is_open_mpi; then
        launcher=(mpirun ${hostfile:+--hostfile "$hostfile"} -n "$1" --map-by "ppr:$2:node:oversubscribe" --bind-to none -x PATH)
    else
        launcher=(mpirun ${hostfile:+-f "$hostfile"} -n "$1" -ppn "$2")
    fi
}

# The batch system's warning that the time will soon be up (USR1), and its request to end (TERM), both let the run write a
# checkpoint. Only the first one is a reason to hand the job in again: who ends a job doesn't want it back.
# shellcheck disable=SC2034  # the job scripts read them
warned=0 ended=0 job=0 signalled=0
# shellcheck disable=SC2317  # the trap calls it
heed() {
    signalled=1
    if [[ $1 == USR1 ]]; then warned=1; else ended=1; fi
    ((job == 0)) || kill -"$1" "$job" 2>/dev/null || true # it may have ended
}
trap 'heed USR1' USR1
trap 'heed TERM' TERM

train() {
    launcher "$1" "$2"
    local command
    # shellcheck disable=SC2206  # some words
    command=(python -m alexnet_dist.supervise ${ALEXNET_SUPERVISE:-} -- "${launcher[@]}")
    command+=(python -m alexnet_dist.train --threads "$3" "${@:4}")
    ((limit == 0)) || command=(timeout --foreground --preserve-status --signal=USR1 "$limit" "${command[@]}")
    printf '+%s\n' "$(printf ' %q' "${command[@]}")"
    SECONDS=0
    "${command[@]}" </dev/null &
    job=$!
    # A signal ends `wait`, not what it waits for; one from before there was a job has told it nothing.
    ((warned + ended == 0)) || kill -USR1 "$job" || true
    signalled=1
    while ((signalled)); do
        signalled=0 status=0
        wait "$job" || status=$?
    done
    ((limit == 0 || SECONDS < limit)) || warned=1
    # It has died of SIGUSR1: before it heeds signals, and so before training.
    ((status != 128 + 10)) || status=75
}
