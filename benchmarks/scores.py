"""Counting pairs of labels over many blocks, and scoring them: time and memory.

Each block brings pairs of labels that no other has, which is the worst case: the table of all pairs
grows with every block. Beside `PairCounter` stands what one would write first, a table to which
each block is added; with many blocks that is quadratic, so it is left out unless asked for.

::

    python benchmarks/scores.py --pairs 1e7 --blocks 200 --beside
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.engine import peak_memory
from stitchsafe.metrics import Contingency, PairCounter, Scores

VOXELS = 20


def blocks(pairs: int, count: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Labels and truth: a true instance for every two labels, in no order."""
    rng, each = np.random.default_rng(0), pairs // count
    for block in range(count):
        labels = np.repeat(rng.permutation(each) + block * each + 1, VOXELS)
        yield labels, labels // 2 + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=float, default=1e7)
    parser.add_argument("--blocks", type=int, default=200)
    parser.add_argument("--beside", action="store_true", help="also add block by block")
    options = parser.parse_args()
    pairs, count = int(options.pairs), options.blocks

    empty, began, counter = peak_memory(), time.perf_counter(), PairCounter()
    for labels, truth in blocks(pairs, count):
        counter.add(labels, truth)
    table = counter.table()
    counted = time.perf_counter()
    Scores.of(table)
    scored = time.perf_counter()
    found = len(table.voxels)
    print(
        f"| {found:,} pairs in {count} blocks | {counted - began:.1f} s counted | "
        f"{scored - counted:.1f} s scored | {(peak_memory() - empty) / found:.0f} bytes a pair |"
    )
    if options.beside:
        began, beside = time.perf_counter(), Contingency.empty()
        for labels, truth in blocks(pairs, count):
            beside = beside.add(labels, truth)
        print(f"| beside it: block by block | {time.perf_counter() - began:.1f} s counted |")
        assert np.array_equal(beside.voxels, table.voxels)


if __name__ == "__main__":
    main()
