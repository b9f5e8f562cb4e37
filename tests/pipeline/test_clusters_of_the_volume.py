"""Labels that need something of all fields: a bandwidth, or modes of the whole volume."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from heard import Heard
from stores import Content, content_of, smooth_volume, tiny_model, tree

import stitchsafe
from stitchsafe.cli import main
from stitchsafe.coordinates import Roi
from stitchsafe.engine import Ledger
from stitchsafe.errors import InputError, IntegrityError, InterruptedRunError
from stitchsafe.instances import (
    MERGING_BYTES,
    Sketch,
    connected_parts,
    estimate_bandwidth,
    find_modes,
    mean_shift,
    most_cells,
    nearest_mode,
    to_units,
)
from stitchsafe.pipeline import _raw
from stitchsafe.training._disks import draw_disks
from stitchsafe.volumes import ArrayStore, _statistics

OPTIONS: dict[str, Any] = {
    "threads": 1, "max_memory": 10**10, "image": "none", "save": ("labels", "table"),
}  # fmt: skip
BANDWIDTH = {"flat": 0.1, "solid": 1.0}
THRESHOLD = {"flat": 0.01, "solid": 0.995}
QUANTILE = 0.02
BOTH: dict[str, Any] = {"clusters": "volume", "bandwidth": "auto"}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Volumes of 15 and of 24 cells, models for them, and an undisturbed result."""
    folder = tmp_path_factory.mktemp("here")
    for kind, shapes in (
        ("flat", {"ndim": 2, "window": (16, 16), "seed": 2}),
        ("solid", {"window": (8, 16, 16)}),
    ):
        labels = {"foreground_threshold": THRESHOLD[kind], "bandwidth": BANDWIDTH[kind],
                  "bandwidth_quantile": QUANTILE}  # fmt: skip
        tiny_model(folder / kind, labels=labels, **shapes)
    np.save(folder / "flat.npy", smooth_volume(44, 75))
    np.save(folder / "solid.npy", smooth_volume(20, 40, 37))
    predict(folder, folder / "straight.zarr", **BOTH)
    return folder


@pytest.fixture(scope="module")
def straight(here: Path) -> Content:
    return content_of(here / "straight.zarr")


def predict(
    here: Path, out: Path, kind: str = "flat", **more: Any
) -> stitchsafe.pipeline.Prediction:
    volume = here / f"{kind}.npy"
    return stitchsafe.predict(volume, here / kind, out, **{**OPTIONS, **more})


def stored(out: Path, name: str) -> np.ndarray:
    array = ArrayStore.open(out / name)
    return array.read(Roi.whole(array.shape))


def clustered_at_once(out: Path, kind: str, kernel: str) -> np.ndarray:
    """From the stored fields: all points at once, connected parts, ids by first voxel."""
    embedding, bandwidth = stored(out, "fields/embedding/0"), BANDWIDTH[kind]
    inside = stored(out, "fields/foreground/0")[0] >= THRESHOLD[kind]
    assert 0.1 < inside.mean() < 0.95
    clusters = np.zeros(inside.shape, np.int32)
    points = embedding[:, inside].T
    if kernel == "flat":
        _, found = mean_shift(points, bandwidth)
    else:
        units = to_units(points, bandwidth)
        found = nearest_mode(units, find_modes(Sketch.of_units(units), bandwidth, kernel=kernel))
    clusters[inside] = found + 1
    assert clusters.max() > 2
    return connected_parts(clusters)[0]


@pytest.mark.parametrize("kind", ["flat", "solid"])
@pytest.mark.parametrize("kernel", ["flat", "gaussian"])
def test_labels_are_those_of_clustering_all_at_once(
    here: Path, tmp_path: Path, kind: str, kernel: str
) -> None:
    out = tmp_path / "out.zarr"
    made = predict(
        here, out, kind, clusters="volume", kernel=kernel, save=("labels", "fields")
    ).to_json()
    expected = clustered_at_once(out, kind, kernel)
    np.testing.assert_array_equal(stored(out, "labels/instances/0"), expected)
    assert made["instances"] == expected.max() > 10
    assert made["bandwidth"] == BANDWIDTH[kind]
    assert made["clusters"] > 2
    assert stitchsafe.verify(out).ok
    # Windows by themselves know less, and the kernel makes a difference.
    apart = predict(here, tmp_path / "apart.zarr", kind, kernel=kernel)
    assert (stored(apart.out, "labels/instances/0") != expected).any()
    other = {"flat": "gaussian", "gaussian": "flat"}[kernel]
    assert (clustered_at_once(out, kind, other) != expected).any()


@pytest.mark.parametrize("clusters", ["window", "volume"])
def test_the_bandwidth_is_that_of_all_points(here: Path, tmp_path: Path, clusters: str) -> None:
    heard, out = Heard(), tmp_path / "out.zarr"
    options = {"clusters": clusters, "save": ("labels", "fields")}
    made = predict(here, out, bandwidth="auto", events=heard, **options).to_json()
    inside = stored(out, "fields/foreground/0")[0] >= THRESHOLD["flat"]
    points = stored(out, "fields/embedding/0")[:, inside].T
    expected = estimate_bandwidth(points, quantile=QUANTILE)
    assert made["bandwidth"] == expected
    assert f"bandwidth: auto -> {expected:.4g}" in heard
    assert json.loads((out / ".stitchsafe/clusters.json").read_text())["bandwidth"] == expected
    # What follows is what that number gives.
    given = predict(here, tmp_path / "given.zarr", bandwidth=expected, clusters=clusters)
    for level in ("0", "1"):
        name = f"labels/instances/{level}"
        if (out / name).exists():
            np.testing.assert_array_equal(stored(out, name), stored(given.out, name))
    assert made["instances"] == given.progress.instances > 10
    assert (made["clusters"] is None) == (clusters == "window")
    assert stitchsafe.verify(out).ok
    wide = predict(here, tmp_path / "wide.zarr", bandwidth="auto", bandwidth_quantile=0.5)
    assert wide.to_json()["bandwidth"] == estimate_bandwidth(points, quantile=0.5) > expected


@pytest.mark.usefixtures("quick_workers")
@pytest.mark.parametrize(
    "schedule",
    [{"block_shape": (48, 32)}, {"workers": 2, "block_shape": (32, 48)}],
)
def test_no_schedule_changes_a_byte(
    here: Path, tmp_path: Path, straight: Content, schedule: dict[str, Any]
) -> None:
    predict(here, tmp_path / "out.zarr", **BOTH, **schedule)
    assert content_of(tmp_path / "out.zarr") == straight
    assert ".stitchsafe/clusters.json" in straight
    assert len(straight["ledger"]["segment"]) == 15


def test_nor_do_parts_of_a_run(here: Path, tmp_path: Path, straight: Content) -> None:
    for part in ("2/3", "1/3"):
        assert predict(here, tmp_path / "out.zarr", part=part, **BOTH).progress.missing
    predict(here, tmp_path / "out.zarr", part="3/3", **BOTH)
    assert content_of(tmp_path / "out.zarr") == straight


def test_nor_do_portions_of_what_is_collected(
    here: Path, tmp_path: Path, straight: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Portions that cut cells, two at a time in other processes, and sketches in many parts."""
    monkeypatch.setattr(_statistics, "_PORTION_VOXELS", 700)
    monkeypatch.setattr(_statistics, "_PIECE_VOXELS", 150)
    monkeypatch.setattr(_statistics, "_MOST_PORTIONS", 10**6)
    monkeypatch.setattr(_raw, "_KEPT", 1)
    monkeypatch.setattr("stitchsafe.instances._sketch._HELD", 3)
    monkeypatch.setattr("stitchsafe.pipeline._clustering._BATCH", 7)
    predict(here, tmp_path / "out.zarr", **BOTH)
    found, expected = content_of(tmp_path / "out.zarr"), dict(straight)
    for each in (found, expected):
        each["ledger"] = {k: v for k, v in each["ledger"].items() if k != "statistics 1"}
    assert found == expected
    portion = _statistics.portion_shape(View)
    assert portion < (16, 16)  # which 16 does not divide, so that pieces lie across cells
    assert 16 % portion[0]


class View:
    """As the fields here are seen."""

    shape, chunk_shape, channels, decoded_bytes = (44, 75), (16, 16), 3, 0


class Death(BaseException):
    """Stands for the end of the process: nothing that follows is carried out."""


def test_killed_before_a_commit_and_run_again(
    here: Path, tmp_path: Path, straight: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, out = Ledger.commit, tmp_path / "out.zarr"
    seen: list[str] = []

    def counted(ledger: Ledger, stage: str, records: Any) -> None:
        seen.append(stage)
        commit(ledger, stage, records)

    blocks = {"block_shape": (48, 32)}
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "commit", counted)
        predict(here, tmp_path / "counted.zarr", **blocks, **BOTH)
    stages = ("cluster statistics 1", "cluster settle 1", "cluster statistics 2",
              "cluster settle 2", "clusters", "segment", "merge", "finish")  # fmt: skip
    moments = [seen.index(stage) for stage in stages]
    assert moments == sorted(moments)
    for number in (moments[0], *moments[2:6], seen.index("segment") + 1, moments[-1]):
        calls = iter(range(len(seen)))

        def dying(*arguments: Any, number: int = number, calls: Any = calls) -> None:
            if next(calls) == number:
                raise Death
            commit(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "commit", dying)
            with pytest.raises(Death):
                predict(here, out, overwrite=out.exists(), **blocks, **BOTH)
        predict(here, out, **blocks, **BOTH)
        assert content_of(out) == straight, f"killed before commit {number} ({seen[number]})"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


HARMED = (
    "clusters.json", "evidence/1_2.npz", "ledger/clusters/.json", "ledger/segment/0_1.json",
    "ledger/predict/2_2.json", "samples/0_0.npz",
)  # fmt: skip


@pytest.mark.parametrize("harm", [flip, Path.unlink])
def test_verify_finds_damage_and_repair_makes_it_good(
    here: Path, tmp_path: Path, straight: Content, harm: Callable[[Path], None]
) -> None:
    out = tmp_path / "out.zarr"
    for name in (*(f".stitchsafe/{each}" for each in HARMED), "labels/instances/0/c/1/1"):
        shutil.copytree(here / "straight.zarr", out)
        harm(out / name)
        assert not stitchsafe.verify(out, cells=2).ok, name
        predict(here, out, repair=True, **BOTH)
        assert content_of(out) == straight, name
        shutil.rmtree(out)


def test_all_of_it_damaged_and_mended_in_other_blocks(
    here: Path, tmp_path: Path, straight: Content
) -> None:
    """With the modes gone, every cell is predicted again for them."""
    out = tmp_path / "out.zarr"
    shutil.copytree(here / "straight.zarr", out)
    for name in (*(f".stitchsafe/{each}" for each in HARMED), "labels/instances/0/c/1/1"):
        (out / name).unlink()
    predict(here, out, repair=True, block_shape=(32, 48), **BOTH)
    assert content_of(out) == straight


def test_other_modes_do_not_pass_for_the_recorded_ones(here: Path, tmp_path: Path) -> None:
    """Labels come out again by the modes that are recorded, and by no others."""
    from stitchsafe.engine import load_json, save_json

    out = tmp_path / "out.zarr"
    shutil.copytree(here / "straight.zarr", out)
    place = out / ".stitchsafe/clusters.json"
    content = load_json(place)
    content["modes"]["units"] = content["modes"]["units"][:1]
    content["modes"]["support"] = content["modes"]["support"][:1]
    save_json(place, content)
    found = stitchsafe.verify(out)
    assert found.label_mismatches > 0
    assert any("clusters.json" in text for text in found.corrupt)


@pytest.mark.parametrize("stage", ["cluster statistics 1", "segment"])
def test_scratch_that_is_damaged_meanwhile_is_not_taken(
    here: Path, tmp_path: Path, straight: Content, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    out, commit = tmp_path / "out.zarr", Ledger.commit

    def dying(ledger: Ledger, at: str, records: Any) -> None:
        if at == stage:
            raise Death
        commit(ledger, at, records)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "commit", dying)
        with pytest.raises(Death):
            predict(here, out, **BOTH)
    lost = sorted((out / ".stitchsafe/raw/embedding/c/0").glob("*/*"))[2]
    lost.unlink()  # which Zarr reads as zeros
    with pytest.raises((InterruptedRunError, IntegrityError), match="--repair"):
        predict(here, out, **BOTH)
    predict(here, out, repair=True, **BOTH)
    assert content_of(out) == straight


def test_scratch_is_counted_and_goes(here: Path, tmp_path: Path, straight: Content) -> None:
    plan = stitchsafe.plan(here / "flat.npy", here / "flat", **OPTIONS, **BOTH)
    voxels = 44 * 75
    assert plan.scratch_bytes == (4 + 3 * 4) * voxels  # provisional labels, three numbers
    alone = stitchsafe.plan(here / "flat.npy", here / "flat", **OPTIONS)
    assert alone.scratch_bytes == 4 * voxels
    assert plan.memory.peak >= alone.memory.peak
    scratch = ("raw", "cluster-statistics", "provisional")
    assert not [
        name for name in straight if name.startswith(tuple(f".stitchsafe/{s}" for s in scratch))
    ]
    assert not [stage for stage in straight["ledger"] if stage.startswith("cluster s")]


def test_fields_that_are_kept_as_they_are_need_no_scratch(here: Path, tmp_path: Path) -> None:
    kept, rounded, spilled = (tmp_path / f"{name}.zarr" for name in ("kept", "rounded", "spilled"))
    both = ("labels", "fields", "table")
    one = predict(here, kept, save=both, **BOTH)
    two = predict(here, rounded, save=both, field_type="float16", **BOTH)
    predict(here, spilled, **BOTH)
    assert one.plan.recipe.spilled == ()
    assert one.plan.scratch_bytes == 4 * 44 * 75
    assert two.plan.recipe.spilled == ("embedding", "foreground")
    contents = [tree(each) for each in (kept, rounded, spilled)]
    same = [n for n in contents[0] if n.startswith(("labels/", "instances.csv"))]
    assert len(same) > 10
    for name in (*same, ".stitchsafe/clusters.json"):
        assert contents[0][name] == contents[1][name] == contents[2][name], name
    harmed = kept / "fields/embedding/0/c/0/1/1"
    flip(harmed)
    assert not stitchsafe.verify(kept, cells=1).ok
    predict(here, kept, save=both, repair=True, **BOTH)
    assert tree(kept)[str(harmed.relative_to(kept))] == harmed.read_bytes()
    assert stitchsafe.verify(kept).ok


def test_only_what_is_predicted_has_a_say(here: Path, tmp_path: Path) -> None:
    """Of a region, and of what a mask leaves in; both end within cells."""
    region = Roi((5, 3), (30, 60))
    made = predict(here, tmp_path / "region.zarr", roi=region, save=("labels", "fields"), **BOTH)
    mask = np.zeros((44, 75), bool)
    mask[2:20, 30:70] = True
    masked = predict(here, tmp_path / "masked.zarr", mask=mask, save=("labels", "fields"), **BOTH)
    covered = Roi((0, 16), (32, 59))  # whole cells
    for result, part in ((made, region), (masked, covered)):
        out = Path(result.out)
        embedding = stored(out, "fields/embedding/0")[:, *part.slices]
        inside = stored(out, "fields/foreground/0")[0][part.slices] >= THRESHOLD["flat"]
        bandwidth = estimate_bandwidth(embedding[:, inside].T, quantile=QUANTILE)
        assert result.to_json()["bandwidth"] == bandwidth
        clusters = np.zeros(part.shape, np.int32)
        clusters[inside] = mean_shift(embedding[:, inside].T, bandwidth)[1] + 1
        labels = stored(out, "labels/instances/0")
        np.testing.assert_array_equal(labels[part.slices], connected_parts(clusters)[0])
        labels[part.slices] = 0
        assert not labels.any()
        assert stitchsafe.verify(out).ok


def test_voxels_without_a_number_have_none(here: Path, tmp_path: Path) -> None:
    volume = np.load(here / "flat.npy").astype(np.float32)
    volume[10:13, 20:30] = np.nan
    out = tmp_path / "out.zarr"
    made = stitchsafe.predict(
        volume, here / "flat", out, nan="keep", **{**OPTIONS, "save": ("labels", "fields")}, **BOTH
    )
    embedding, labels = stored(out, "fields/embedding/0"), stored(out, "labels/instances/0")
    finite = np.isfinite(embedding).all(axis=0)
    assert 30 <= (~finite).sum() < 600
    assert not labels[~finite].any()
    inside = finite & (np.nan_to_num(stored(out, "fields/foreground/0")[0]) >= THRESHOLD["flat"])
    bandwidth = estimate_bandwidth(embedding[:, inside].T, quantile=QUANTILE)
    assert made.to_json()["bandwidth"] == bandwidth
    clusters = np.zeros(labels.shape, np.int32)
    clusters[inside] = mean_shift(embedding[:, inside].T, bandwidth)[1] + 1
    np.testing.assert_array_equal(labels, connected_parts(clusters)[0])
    assert stitchsafe.verify(out, volume=volume).ok


def test_nothing_in_the_foreground(here: Path, tmp_path: Path) -> None:
    made = predict(here, tmp_path / "out.zarr", foreground_threshold=1.0, **BOTH)
    assert (made.progress.instances, made.to_json()["clusters"]) == (0, 0)
    assert stitchsafe.verify(tmp_path / "out.zarr").ok


def test_options_without_embeddings_are_refused(here: Path, tmp_path: Path) -> None:
    for more in ({"clusters": "volume"}, {"kernel": "gaussian"}, {"bandwidth": "auto"}):
        (option,) = more
        with pytest.raises(InputError, match=f"--{option}"):
            predict(here, tmp_path / "out.zarr", labels_from="foreground", **more)
        with pytest.raises(InputError, match=f"--{option}"):
            predict(here, tmp_path / "out.zarr", save="fields", **more)
    with pytest.raises(InputError, match=r"--bandwidth-quantile 0.1 is for .*auto"):
        predict(here, tmp_path / "out.zarr", bandwidth_quantile=0.1)
    with pytest.raises(InputError, match="'wide'"):
        predict(here, tmp_path / "out.zarr", bandwidth="wide")
    assert not (tmp_path / "out.zarr").exists()


def test_disks_through_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bundled network on a Zarr image of four windows: what clustering all at once gives."""
    (image,), _ = draw_disks(
        (280, 270), np.random.default_rng(7), radius=(4, 8), jitter=0, noise=0.1
    )
    array = zarr.create_array(
        tmp_path / "disks.zarr", shape=image.shape, chunks=(128, 128), dtype="float32"
    )
    array[...] = image
    words = ["predict", tmp_path / "disks.zarr", "-m", "disks-2d", "-o", tmp_path / "out.zarr",
             "--clusters", "volume", "--save", "labels,fields", "--axes", "yx", "--threads", "2",
             "--json", "--quiet"]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert not ended.value.code
    answer = json.loads(capsys.readouterr().out)
    assert answer["plan"]["cell_shape"] == [256, 256]
    embedding = stored(tmp_path / "out.zarr", "fields/embedding/0")
    points = embedding.reshape(3, -1).T
    _, clusters = mean_shift(points, 3.0, min_support=20)
    background = np.bincount(clusters).argmax()
    whole = np.where(clusters == background, 0, clusters + 1).reshape(image.shape)
    parts, _ = connected_parts(whole.astype(np.int32))
    sizes = np.bincount(parts.ravel())
    kept = np.flatnonzero(sizes[1:] >= 10) + 1
    expected = np.searchsorted(kept, parts) + 1
    expected[~np.isin(parts, kept)] = 0
    np.testing.assert_array_equal(stored(tmp_path / "out.zarr", "labels/instances/0"), expected)
    assert answer["instances"] == len(kept) > 30
    assert stitchsafe.verify(tmp_path / "out.zarr", cells=2).ok


def test_points_that_are_too_scattered_for_the_memory_are_refused(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fields without clusters, or a bandwidth that is far too small."""
    assert most_cells(3, MERGING_BYTES) > 10**5
    monkeypatch.setattr("stitchsafe.pipeline._clustering.most_cells", lambda *_: 300)
    out, narrow = tmp_path / "out.zarr", {"clusters": "volume", "bandwidth": 0.005}
    with pytest.raises((InputError, InterruptedRunError), match="scattered over more than 300"):
        predict(here, out, **narrow)
    with pytest.raises((InputError, InterruptedRunError), match="scattered over more than 300"):
        predict(here, out, **narrow)  # from what is there
    monkeypatch.undo()
    assert predict(here, out, overwrite=True, **BOTH).progress.instances
