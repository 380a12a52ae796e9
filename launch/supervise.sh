#!/usr/bin/env bash
# As launch/local.sh, and starts the run again after each failure: launch/supervise.sh N [flags of alexnet_dist.train].
# ALEXNET_SUPERVISE may hold flags of alexnet-supervise, such as "--restarts 20".

# shellcheck source-path=SCRIPTDIR
source "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")/common.sh"

help_if_asked "$@"
[[ ! -x $venv/bin/python ]] || activate
python -c 'import alexnet_dist' 2>/dev/null || die "alexnet_dist is not installed here: run launch/demo.sh once"
# shellcheck disable=SC2086  # some words
exec python -m alexnet_dist.supervise ${ALEXNET_SUPERVISE:-} -- "$root/launch/local.sh" "$@"
