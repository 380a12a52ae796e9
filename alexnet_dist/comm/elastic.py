"""A world that may lose ranks and go on without them, by MPI's User-Level Failure Mitigation (ULFM) in Open MPI.

Source: Bland et al., "Post-failure recovery of MPI communication capability" (IJHPCA 27(3), 2013). A rank that can't reach
another one gets an error; it revokes the communicator, so that all others get one, too; those that are left shrink it to
themselves. MPI agrees on who is left.
"""

import os
import signal
from contextlib import suppress

from mpi4py import MPI

from alexnet_dist.comm.world import ULFM, World
from alexnet_dist.errors import STALLED, SharedError, UserError
from alexnet_dist.support.plural import plural
from alexnet_dist.support.processes import Process

# Of several requests together MPI only says that one has failed; and Open MPI says "other" where it was between two rounds of
# an operation when the communicator was revoked.
LOSSES = (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED, MPI.ERR_IN_STATUS, MPI.ERR_OTHER)


def make_elastic(world: World) -> None:
    """Collective: from now on, the loss of a rank is an error for which `is_loss` is true. Raises SharedError where MPI
    can't go on without a rank."""
    with world.shared_errors():
        if not ULFM:
            raise UserError(
                "--elastic needs Open MPI, started by: mpirun --with-ft ulfm (launch/local.sh does it). "
                "With another MPI, alexnet-supervise starts the run again after a loss"
            )
    world.commits = True


def is_loss(error: Exception) -> bool:
    """Whether an error says that a rank is lost, or may say so: `regroup` finds out who is left."""
    return isinstance(error, MPI.Exception) and error.Get_error_class() in LOSSES


def regroup(world: World, before: list[Process], least: int) -> list[Process]:
    """After an error that `is_loss`: the world becomes that of the ranks which are left, in their order; returns them.

    Those that are lost are ended, should they only have been stopped. Raises an error that `is_loss` if another one is lost
    meanwhile: try again; SharedError if fewer than `least` are left, or if others may go on as well: where hosts are lost,
    only more than half of the ranks may.
    """
    world.comm.Revoke()
    if not world.dissent:  # a rank that has got further may wait in a commit, which a revocation doesn't end
        with suppress(MPI.Exception):
            world.agree(False)
    world.comm, world.dissent = MPI.Intracomm(world.comm.Shrink()), False
    world.rank, world.size = world.comm.rank, world.comm.size
    left = world.all_processes()
    lost = set(before) - set(left)
    for process in lost:
        if process.is_here and process.is_alive:
            os.kill(process.pid, signal.SIGKILL)
    elsewhere = {process.place for process in lost} - {process.place for process in left}  # where nobody has ended them
    too_few = f"{plural(len(left), 'rank')} of {len(before)} are left"
    if len(left) < least:
        raise SharedError(f"{too_few}, fewer than --min-ranks {least}", STALLED)
    if elsewhere and 2 * len(left) <= len(before):
        raise SharedError(f"{too_few}: not more than half, and those of the other hosts may go on as well", STALLED)
    return left
