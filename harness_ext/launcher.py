"""Whether a launcher, `torchrun` or `accelerate launch`, started this process as one of several. Knows no run."""

import os
from dataclasses import dataclass

from harness_ext.errors import UserError

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_OTHERS = ("PMI_", "MPI_LOCAL", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_")  # begin what accelerate reads in their place


@dataclass(frozen=True)
class Place:
    """Which of how many processes of a launcher this one is; 0 of 1 where there is none."""

    rank: int = 0
    size: int = 1


def launched() -> Place:
    """Find out whether `torchrun` or `accelerate launch` started this process as one of several.

    Then process 0 alone is the run, and starts as many of its own; the others have nothing to do. What launchers leave in
    the environment is taken out, as Slurm scripts and Ray leave it too, where nobody is there to be met: or lm-eval and
    accelerate would deal out documents or wait for the others.
    """
    by_launcher = "TORCHELASTIC_RUN_ID" in os.environ  # set by torchrun, which `accelerate launch` calls; by no scheduler
    said = {name: os.environ.get(name, "") for name in _NAMES}
    for name in [name for name in os.environ if name in _NAMES or name.startswith(_OTHERS)]:
        del os.environ[name]
    if not by_launcher:
        return Place()
    size, rank = int(said["WORLD_SIZE"] or 1), int(said["RANK"] or 0)
    here = int(said["LOCAL_WORLD_SIZE"] or size)
    if here != size:
        raise UserError(f"The launcher has started {size} processes, {here} of them here: PROCS= is for one machine.")
    return Place(rank, size)
