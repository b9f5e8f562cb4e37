"""Models made by others: their verdicts, and stitched equal to whole through predict."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_exactness import tiles_differ_by
from onnx_graphs import convolution, model, saved, smoothing

import stitchsafe
from stitchsafe.cli import main
from stitchsafe.networks import OnnxNetwork, Runtime, load_onnx

pytest.importorskip("onnxruntime", reason="onnxruntime comes with the extra onnx")


@pytest.fixture(scope="module")
def models(shared_data: Path) -> Path:
    folder = shared_data / "models"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder


@pytest.fixture(scope="module")
def nuclei(models: Path) -> Path:
    return models / "bioimageio_unet2d_nuclei_broad" / "weights.onnx"


@pytest.fixture(scope="module")
def opened(nuclei: Path, tmp_path_factory: pytest.TempPathFactory) -> OnnxNetwork:
    """The same network without its stated size, so that one pass over the whole can be run."""
    content = onnx.load(nuclei)
    for tensor in (*content.graph.input, *content.graph.output):
        for dim in tensor.type.tensor_type.shape.dim[2:]:
            dim.ClearField("value")
    return load_onnx(saved(tmp_path_factory.mktemp("opened"), content))


def test_nuclei_broad(nuclei: Path, opened: OnnxNetwork) -> None:
    """Margins of a voxel differ by its phase, and by side."""
    fixed = load_onnx(nuclei).geometry
    assert (fixed.verdict, fixed.period) == ("safe", (8, 8))
    assert [(a.input_min, a.input_step) for a in fixed.axes] == [(512, 0), (512, 0)]
    for axis in fixed.outputs[0].axes:
        margins = [(j - lo, hi - j) for j, (lo, hi) in enumerate(filter(None, axis.support))]
        assert margins == [
            (54, 53), (55, 52), (56, 51), (57, 58), (58, 57), (51, 56), (52, 55), (53, 54),
        ]  # fmt: skip
    free = opened.geometry
    assert [(a.input_min, a.input_step) for a in free.axes] == [(8, 8), (8, 8)]
    assert [o.axes for o in free.outputs] == [o.axes for o in fixed.outputs]


def test_what_reaches_an_output_lies_within_its_context(opened: OnnxNetwork) -> None:
    size = 256
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 1, size, size)).astype(np.float32)
    before = opened.run(image)[0][0, 0]
    widest = [0, 0]
    for place in range(120, 128):
        other = image.copy()
        other[..., place, place] += 50
        changed = np.argwhere(opened.run(other)[0][0, 0] != before)
        assert len(changed) > 1000
        for axis, own in enumerate(opened.geometry.outputs[0].axes):
            for element in np.unique(changed[:, axis]):
                low, high = own.support[element % 8] or (0, -1)
                assert low <= place - element // 8 * 8 <= high
                widest = [max(widest[0], element - place), max(widest[1], place - element)]
    # What the tracer says is not far from what is seen.
    assert min(widest) >= 50


def test_tiles_of_nuclei_broad_equal_one_pass(opened: OnnxNetwork) -> None:
    """On an image of more than 2000 by 2000, of odd size, through predict."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2011, 2026)).astype(np.float32)
    made = stitchsafe.predict(
        image, opened, save="fields", tile_shape=(576, 448), threads=2, max_memory=6 * 10**9
    )
    (field,) = made.fields.values()
    opened.prepare(Runtime(threads=2))
    # Its sizes are multiples of 8: the image is extended by the border rule first.
    padded = np.pad(image, [(0, -size % 8) for size in image.shape], "reflect")
    whole = opened.run(padded[np.newaxis, np.newaxis])[0][0][:, : image.shape[0], : image.shape[1]]
    assert field.shape == whole.shape == (1, 2011, 2026)
    difference = np.abs(field - whole).max() / np.abs(whole).max()
    assert difference <= 1e-5


def names(path: Path) -> list[tuple[str, str]]:
    return [(b.layer, b.op) for b in load_onnx(path).geometry.breaks]


def test_classifiers_end_in_what_mixes_all(models: Path) -> None:
    ends = {
        path.stem.removeprefix("light_"): [op for _, op in names(path)]
        for path in sorted((models / "onnx_light").glob("*.onnx"))
    }
    assert ends == {
        "densenet121": ["GlobalAveragePool"],
        "inception_v1": ["Gemm"],  # its last pooling is bounded: 7 by 7
        "inception_v2": ["Gemm"],
        "resnet50": ["Gemm"],
        "shufflenet": ["Gemm"],
        "squeezenet": ["GlobalAveragePool"],
        "vgg19": ["Gemm"],
        "zfnet512": ["Gemm"],
    }


def test_squeeze_excite_is_named_block_by_block(models: Path) -> None:
    network = load_onnx(models / "rapidocr" / "ch_PP-OCRv4_det_infer.onnx")
    breaks = network.geometry.breaks
    assert [b.layer for b in breaks] == [f"p2o.GlobalAveragePool.{2 * i}" for i in range(10)]
    # What its tiles would look like, were these mended.
    assert network.geometry.period == (32, 32)
    classifier = names(models / "rapidocr" / "ch_ppocr_mobile_v2.0_cls_infer.onnx")
    assert [layer for layer, _ in classifier] == [f"GlobalAveragePool@{i}" for i in range(10)]


def test_archives_of_channels_last_models(models: Path) -> None:
    """Two whiten each image in a loop, by its own mean; three are dense, of one size."""
    folder = models / "czann"
    for name in ("N2V_tobacco_leaf", "N2V_tobacco_leaf_Whitened"):
        ((layer, op),) = names(folder / f"{name}.czann")
        assert op == "Loop"
        assert "map/while_loop" in layer
    expected = {
        "simple_nuclei_segmodel": (1, (1, 1), 1024, 2),
        "simple_regmodel": (4, (15, 15), 512, 1),
        "simple_regmodel_out5": (4, (15, 15), 512, 1),
    }
    for name, (period, context, size, channels) in expected.items():
        network = load_onnx(folder / f"{name}.czann")
        geometry = network.geometry
        assert geometry.verdict == "safe"
        for axis in geometry.axes:
            assert (axis.period, axis.context) == (period, context)
            assert (axis.input_min, axis.input_step) == (size, 0)
        assert [(o.channels, o.layout) for o in geometry.outputs] == [(channels, "byxc")]
        image = np.random.default_rng(0).normal(size=(1, 1, size, size)).astype(np.float32)
        assert network.run(image)[0].shape == (1, channels, size, size)


def code(*words: object) -> int:
    """The exit code of the command line."""
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    return int(caught.value.code or 0)


def test_check_and_predict_take_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, model([convolution()], weights=[smoothing()]))
    assert code("check", path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["context"] == [[1, 1], [1, 1]]
    np.save(tmp_path / "image.npy", np.random.default_rng(0).normal(size=(40, 50)).astype("f4"))
    out = tmp_path / "out.zarr"
    words = ["predict", tmp_path / "image.npy", "-m", path, "-o", out, "--save", "fields"]
    assert code(*words, "--tile-shape", "16,16", "--json") == 0
    assert json.loads(capsys.readouterr().out)["exact"] is True
    assert code("verify", out, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"]
    recipe = json.loads((out / ".stitchsafe" / "recipe.json").read_text())
    assert "onnxruntime" in json.dumps(recipe)
    path.write_bytes(path.read_bytes()[:-40])
    assert code("check", path) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_helper_that_compares_sees_a_seam(tmp_path: Path) -> None:
    """A context that is too small by one shows."""
    network = load_onnx(saved(tmp_path, model([convolution()], weights=[smoothing()])))
    assert tiles_differ_by(network) < 1e-6
    from dataclasses import replace

    geometry = network.geometry
    axes = tuple(replace(axis, context=(0, 1)) for axis in geometry.axes)
    network.__dict__["geometry"] = replace(geometry, axes=axes)
    assert tiles_differ_by(network) > 1e-3
