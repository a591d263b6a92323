"""The options of verbs that can use a Ray cluster: `run`, `patch` and `correlate`."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from lensrl.errors import LensrlError

if TYPE_CHECKING:
    from lensrl.compare.cluster import Cluster


class Place(Enum):
    """Where the work is done."""

    HERE = "here"
    RAY = "ray"


Where = Annotated[Place, typer.Option("--engine", help="On this machine, or on a Ray cluster.")]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="CLUSTER",
        help="The Ray cluster: auto, or HOST:PORT; by default one that is started on this machine for this command.",
    ),
]
NumCpus = Annotated[float | None, typer.Option("--num-cpus", help="CPUs of a worker on Ray.")]
NumGpus = Annotated[
    float | None, typer.Option("--num-gpus", help="GPUs of a worker on Ray; 0.5: two workers share one.")
]


def check_place(place: Place, address: str | None, num_cpus: float | None, num_gpus: float | None) -> None:
    """Raise LensrlError for an option of a cluster without `--engine ray`."""
    of_ray = {"--address": address, "--num-cpus": num_cpus, "--num-gpus": num_gpus}
    given = next((option for option, value in of_ray.items() if value is not None), None)
    if place is not Place.RAY and given is not None:
        raise LensrlError(f"{given} is for a Ray cluster: add --engine ray")


def cluster_of(place: Place, address: str | None, num_cpus: float | None, num_gpus: float | None) -> Cluster | None:
    """Return the Ray cluster that the options name; None for this machine alone. Raises as `check_place` does."""
    check_place(place, address, num_cpus, num_gpus)
    if place is not Place.RAY:
        return None
    from lensrl.compare.cluster import Cluster

    return Cluster(address, 1.0 if num_cpus is None else num_cpus, num_gpus)
