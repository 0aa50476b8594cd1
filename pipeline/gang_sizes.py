"""How many ranks a training job gets: a divisor of the global batch, so that the same sequences make a step at any size."""

from __future__ import annotations

from pipeline.cluster import Cluster, fits
from pipeline.errors import ConfigError, PreflightError


def world_size(cluster: Cluster, workers: int | tuple[int, int], global_batch: int) -> int:
    """Ranks for `workers` (0: as many as there are places; (min, max): the largest divisor of the global batch within).

    A place is a free one on a node that answers and is not about to be taken away.

    Raises:
        ConfigError: no such number divides the global batch.
        PreflightError: fewer places than the minimum.
    """
    refused = undivided(workers, global_batch)
    if refused is not None:
        raise ConfigError(f"cluster.workers: {refused}")
    if isinstance(workers, int) and workers > 0:
        return workers
    least, most = (1, cluster.workers) if isinstance(workers, int) else workers
    places = min(most, _places(cluster))
    for ranks in range(places, 0, -1):
        if global_batch % ranks == 0 and ranks >= least:
            return ranks
    raise PreflightError(
        f"cluster.workers: [{least}, {most}] asks for at least {least} ranks that divide {global_batch}; the cluster has places for {places}"
    )


def undivided(workers: int | tuple[int, int], global_batch: int) -> str | None:
    """Why no such number of ranks can share a global batch, whatever the cluster; None where one can."""
    if workers == 0:
        return None
    least, most = (workers, workers) if isinstance(workers, int) else workers
    near = [n for n in range(1, global_batch + 1) if global_batch % n == 0]
    if any(least <= n <= most for n in near):
        return None
    given = str(workers) if isinstance(workers, int) else f"{least} to {most}"
    return f"{given} ranks do not divide a global batch of {global_batch}; possible: {', '.join(map(str, near))}"


def _places(cluster: Cluster) -> int:
    given = cluster.settings
    nodes = cluster.free_nodes()
    return max(1, fits(nodes, given.cpus_per_worker, given.memory_per_worker or 0, cluster.gpus_per_worker))


def default_micro_batch(global_batch: int, ranks: int, most: int = 16) -> int:
    """The largest divisor of a rank's share of the global batch, up to `most` sequences."""
    share = global_batch // ranks
    return max(n for n in range(1, min(most, share) + 1) if share % n == 0)
