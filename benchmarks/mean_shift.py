"""Mean shift beside scikit-learn's, on the same points in the same run.

Points lie about separated centres. Timed are `stitchsafe.MeanShift` (bandwidth given, `fit` with
labels) and `sklearn.cluster.MeanShift(bin_seeding=True)`; printed are the fastest of some rounds,
their ratio, and the adjusted Rand index between the two partitions. On a subset that quadratic time
allows, the partition is compared with that of the exact flat kernel too. ``--peer-points`` bounds
what scikit-learn is given: beyond, only ours runs::

    OMP_NUM_THREADS=1 python benchmarks/mean_shift.py --points 1e6 --dimensions 3 4
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import cluster
from sklearn.metrics import adjusted_rand_score

from stitchsafe import MeanShift

BANDWIDTH = 2.0
EXACT_POINTS = 1000


def blobs(count: int, dimensions: int, clusters: int) -> NDArray[np.float32]:
    """Points half a unit from one of some centres that lie more than two bandwidths apart."""
    rng = np.random.default_rng(0)
    centers: list[NDArray[np.float64]] = []
    side = BANDWIDTH * max(8.0, 4 * clusters ** (1 / dimensions))
    while len(centers) < clusters:
        new = rng.uniform(-side / 2, side / 2, dimensions)
        if all(np.linalg.norm(new - old) > 2.2 * BANDWIDTH for old in centers):
            centers.append(new)
    points = rng.standard_normal((count, dimensions), np.float32) * np.float32(dimensions**-0.5 / 2)
    points += np.asarray(centers, np.float32)[rng.integers(clusters, size=count)]
    return points


def fastest(rounds: int, work: Callable[[], Any]) -> tuple[float, Any]:
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        result = work()
        taken.append(time.perf_counter() - began)
    return min(taken), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=float, nargs="+", default=[1e5])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[3, 4])
    parser.add_argument("--clusters", type=int, default=8)
    parser.add_argument("--kernel", choices=["flat", "gaussian"], default="flat")
    parser.add_argument("--backend", choices=["numpy", "torch"], default="numpy")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-points", type=float, default=1e6)
    asked = parser.parse_args()
    # Half the bandwidth as standard deviation sees as far as the flat kernel does.
    width = BANDWIDTH if asked.kernel == "flat" else BANDWIDTH / 2
    ours = MeanShift(width, kernel=asked.kernel, backend=asked.backend, device=asked.device)
    peer = cluster.MeanShift(bandwidth=BANDWIDTH, bin_seeding=True)
    ours.fit(blobs(1000, 2, 2))  # what is imported or compiled at first use is no part of it
    print("points      d  clusters  Mpoints/s  scikit-learn   ratio   Rand  Rand to exact")
    for dimensions in asked.dimensions:
        for count in map(int, asked.points):
            points = blobs(count, dimensions, asked.clusters)
            seconds, model = fastest(asked.rounds, lambda points=points: ours.fit(points))
            few = points[:EXACT_POINTS]
            exact = MeanShift(BANDWIDTH, exact=True).fit(few)
            to_exact = adjusted_rand_score(exact.labels_, model.labels_[: len(few)])
            line = f"{count:<10}  {dimensions}  {len(model.cluster_centers_):8}"
            line += f"  {count / seconds / 1e6:9.2f}"
            if count <= asked.peer_points:
                theirs, other = fastest(1, lambda points=points: peer.fit(points))
                alike = adjusted_rand_score(other.labels_, model.labels_)
                line += f"  {count / theirs / 1e6:12.4f}  {theirs / seconds:6.0f}  {alike:.3f}"
            else:
                line += f"  {'-':>12}  {'-':>6}  {'-':>5}"
            print(f"{line}  {to_exact:13.3f}", flush=True)


if __name__ == "__main__":
    main()
