"""A stage whose cells do as they are told, in this process or in a worker."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from stitchsafe.coordinates import CellGrid, Roi
from stitchsafe.engine import Ledger, Stage
from stitchsafe.errors import InputError, VolumeError

CELLS = CellGrid(Roi.whole((6, 9)), (2, 3))


@dataclass(frozen=True)
class Toy:
    """Opens itself. In its folder lie one file a cell, a log, and what cells are told to do.

    ``<index>.orders`` says ``die``, ``damaged``, ``full`` (perhaps ``afterwards``: when
    another is slow), ``wrong``, ``patient`` or ``slow``,
    perhaps ``once``. ``stillborn`` holds the number of workers that are yet to die as they open it.
    """

    folder: Path

    def __call__(self) -> Toy:
        if (stillborn := self.folder / "stillborn").exists():
            left = int(stillborn.read_text())
            if left > 1:
                stillborn.write_text(str(left - 1))
            else:
                stillborn.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if (self.folder / "foreign").exists():
            raise InputError(f"{self.folder} is not here; put it where all see it")
        return self

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder / "ledger")

    def stage(self, name: str) -> Stage:
        return Stage(name, CELLS, self)

    def read(self, block, cells):
        self.note("read", block)
        return [CELLS.index(cell) for cell in cells]

    def compute(self, cells, source):
        return (self.done(cell, source) for cell in cells)

    def done(self, cell, source):
        assert CELLS.index(cell) in source
        self.note("compute", cell)
        self.note("thread", threading.current_thread().name)
        self._obey(CELLS.index(cell))
        return os.getpid()

    def write(self, cell, result):
        (self.folder / self.name(CELLS.index(cell))).write_text("done")
        return {"by": result}

    def note(self, what, region):
        with (self.folder / "log").open("a") as log:
            log.write(f"{what} {region}\n")

    def noted(self, what):
        lines = (self.folder / "log").read_text().splitlines()
        return [line.removeprefix(f"{what} ") for line in lines if line.startswith(f"{what} ")]

    def order(self, index, what):
        (self.folder / f"{self.name(index)}.orders").write_text(what)

    @staticmethod
    def name(index):
        return "_".join(map(str, index))

    def _obey(self, index):
        orders = self.folder / f"{self.name(index)}.orders"
        if not orders.exists():
            return
        what = orders.read_text()
        if what.endswith("once"):
            orders.unlink()
        match what.removesuffix(" once"):
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "damaged":
                raise VolumeError(f"cell {index} cannot be read; mend it")
            case "full" | "full afterwards" as told:
                while told != "full" and not self.noted("slow"):
                    time.sleep(0.05)
                raise OSError(errno.ENOSPC, "No space left on device")
            case "wrong":
                raise InputError("the bandwidth 9 is wrong; give another")
            case "patient":
                self.note("slow", CELLS.cell_at(index))
                time.sleep(3)
            case "slow":
                self.note("slow", CELLS.cell_at(index))
                time.sleep(3600)
