"""Windows are merged in stages: however many districts there are, and wherever a run dies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stores import content_of, smooth_volume, tiny_model

import stitchsafe
from stitchsafe.engine import Ledger
from stitchsafe.errors import InterruptedRunError
from stitchsafe.instances import _districts, _merging, _numbering
from stitchsafe.pipeline import _merging as stages
from stitchsafe.pipeline._store import ResultStore

OPTIONS: dict[str, Any] = {"threads": 1, "max_memory": 10**10, "image": "none"}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a volume of 18 windows, a model whose modes conflict, and a result of them."""
    folder = tmp_path_factory.mktemp("merging")
    # Drifting embeddings and no background: whatever touches may unite.
    tiny_model(folder / "tiny", window=(8, 16, 16), labels={"background": "none"})
    np.save(folder / "volume.npy", smooth_volume(16, 48, 40))
    predict(folder, folder / "whole.zarr")
    return folder


@pytest.fixture
def small() -> Iterator[None]:
    """Small portions of everything: many districts, and several of what is handled together."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_districts, "DISTRICT_BYTES", 2**19)
        patch.setattr(_numbering, "AT_ONCE", 50)
        patch.setattr(_merging, "WALKED_AT_ONCE", 50_000)
        yield


def predict(here: Path, out: Path, **more: Any) -> stitchsafe.pipeline.Prediction:
    save = ("labels", "table")
    options = {**OPTIONS, "save": save, **more}
    return stitchsafe.predict(here / "volume.npy", here / "tiny", out, **options)


def outcome(out: Path) -> dict[str, bytes]:
    """What a user sees of a result, and the evidence of pairs."""
    seen = {n: data for n, data in content_of(out).items() if not n.startswith(".stitchsafe/")}
    return {n: data for n, data in seen.items() if n.startswith(("labels/", "instances"))}


def pairs_of(out: Path) -> list[tuple[float, ...]]:
    found = []
    for file in sorted((out / ".stitchsafe" / "merged").iterdir()):
        with np.load(file) as arrays:
            columns = ("low", "high", "voxels", "distances", "decisions")
            found += zip(*(arrays[f"pair_{name}"].tolist() for name in columns), strict=True)
    return sorted(found)


def test_districts_change_nothing(here: Path, tmp_path: Path, small: None) -> None:
    made = predict(here, tmp_path / "out.zarr")
    assert len(list((tmp_path / "out.zarr/.stitchsafe/merged").iterdir())) >= 8
    assert made.progress.instances
    assert outcome(tmp_path / "out.zarr") == outcome(here / "whole.zarr")
    pairs = pairs_of(tmp_path / "out.zarr")
    assert pairs == pairs_of(here / "whole.zarr")
    assert {pair[-1] for pair in pairs} == {0, 1, 2}  # united, unlike, and in conflict
    assert stitchsafe.verify(tmp_path / "out.zarr", cells=3).ok
    private = {path.name for path in (tmp_path / "out.zarr/.stitchsafe").iterdir()}
    assert not private & {"merging", "provisional", "raw"}


class Death(BaseException):
    """Stands for the end of the process: nothing that follows is carried out."""


def test_killed_before_any_commit_of_merging(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None
) -> None:
    """Each stage once: after some of its districts, or before its only entry."""
    out, commit = tmp_path / "out.zarr", Ledger.commit
    predict(here, tmp_path / "straight.zarr")
    seen: list[str] = []

    def dies(ledger: Ledger, stage: str, records: Any) -> None:
        merges = stage not in ("predict", "labels", "finish") and "consensus" in ledger.stages()
        if merges and seen.count(stage) < 2:
            seen.append(stage)
            if seen.count(stage) == (2 if stages.is_merging(stage) else 1):
                raise Death
        commit(ledger, stage, records)

    deaths = 0
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "commit", dies)
        while True:
            try:
                predict(here, out)
                break
            except Death:
                deaths += 1
    assert {"contacts", "unite 1", "groups", "walk", "objects", "totals", "order"} <= set(seen)
    assert deaths >= 10
    assert content_of(out) == content_of(tmp_path / "straight.zarr")


def test_strays_are_adopted_whatever_the_districts_and_deaths(
    here: Path, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segments are few, and most of what they grow into lies beyond faces of their windows."""
    rule = {"foreground_threshold": 0.997, "growth_threshold": 0.99, "min_core": 8}
    tiny_model(tmp_path / "grows", window=(8, 16, 16), labels=rule)
    options: dict[str, Any] = {**OPTIONS, "save": ("labels", "table")}
    with monkeypatch.context() as patch:
        patch.setattr(_districts, "DISTRICT_BYTES", 2**30)
        stitchsafe.predict(
            here / "volume.npy", tmp_path / "grows", tmp_path / "whole.zarr", **options
        )
    adopted = [pair for pair in pairs_of(tmp_path / "whole.zarr") if pair[3] == 0]
    assert len(adopted) > 20
    commit, died = Ledger.commit, []
    monkeypatch.setattr(_districts, "DISTRICT_BYTES", 2**14)

    def dies(ledger: Ledger, stage: str, records: Any) -> None:
        if stage.startswith("adopt") and stage not in died:
            died.append(stage)
            raise Death
        commit(ledger, stage, records)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "commit", dies)
        for _ in range(10):
            try:
                stitchsafe.predict(
                    here / "volume.npy", tmp_path / "grows", tmp_path / "out.zarr", **options
                )
                break
            except Death:
                pass
    assert {"adopt 1", "adopt 2", "adopted"} <= set(died)
    assert len(list((tmp_path / "out.zarr/.stitchsafe/merged").iterdir())) >= 8
    assert outcome(tmp_path / "out.zarr") == outcome(tmp_path / "whole.zarr")
    assert pairs_of(tmp_path / "out.zarr") == pairs_of(tmp_path / "whole.zarr")
    assert stitchsafe.verify(tmp_path / "out.zarr", cells=3).ok


def test_too_many_in_conflict_for_the_memory(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run stops before it takes more, and goes on when it is given more."""
    monkeypatch.setattr(_merging, "SEGMENT_BYTES", 10**9)
    with pytest.raises(InterruptedRunError, match=r"of which some conflict.*--max-memory"):
        predict(here, tmp_path / "out.zarr", max_memory=2 * 10**9)
    monkeypatch.undo()
    predict(here, tmp_path / "out.zarr")
    assert outcome(tmp_path / "out.zarr") == outcome(here / "whole.zarr")


def test_what_merging_left_is_made_anew_from_the_evidence(
    here: Path, tmp_path: Path, small: None
) -> None:
    """Of a finished result, whose scratch is gone: only the district that is damaged."""
    out = tmp_path / "out.zarr"
    predict(here, out)
    before = content_of(out)
    files = sorted((out / ".stitchsafe" / "merged").iterdir())
    stamps = {file: file.stat().st_mtime_ns for file in files}
    files[3].write_bytes(b"nonsense")
    assert not stitchsafe.verify(out, cells=1).ok
    predict(here, out, repair=True)
    assert content_of(out) == before
    assert [file for file in files if file.stat().st_mtime_ns != stamps[file]] == [files[3]]
    assert not ResultStore.at(out).merging.exists()
