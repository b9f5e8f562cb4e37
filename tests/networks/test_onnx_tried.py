"""What a graph's definition says, held against what onnxruntime does with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_graphs import constant, model, value

import stitchsafe
from stitchsafe.errors import ModelError
from stitchsafe.networks import load_network

WEIGHTS = np.random.default_rng(0).random((1, 1, 3, 3), dtype=np.float32)


def saved(folder: Path, node: onnx.NodeProto, weights: Any = WEIGHTS, **more: Any) -> Path:
    onnx.save(model([node], weights=[constant("w", weights)], **more), folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize("automatic", ["SAME_UPPER", "SAME_LOWER"])
def test_a_node_that_onnxruntime_does_not_run_is_named(tmp_path: Path, automatic: str) -> None:
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], name="dilated", dilations=[2, 2], auto_pad=automatic
    )
    verdict = stitchsafe.check(saved(tmp_path, node))
    (found,) = verdict.geometry.breaks
    assert not verdict.safe
    assert (found.layer, found.op) == ("dilated", "run")
    assert "does not run" in found.reason


@pytest.mark.parametrize("automatic", ["SAME_UPPER", "SAME_LOWER"])
def test_sizes_that_onnxruntime_makes_otherwise_are_found(tmp_path: Path, automatic: str) -> None:
    node = helper.make_node(
        "MaxPool", ["x"], ["y"], kernel_shape=[3, 3], dilations=[2, 2], auto_pad=automatic
    )
    (found,) = load_network(saved(tmp_path, node)).geometry.breaks
    assert found.layer == "y"
    assert "of 7 x 7 voxels onnxruntime makes an output of the shape (1, 1, 5, 5)" in found.reason


def test_what_runs_with_valid_padding_is_safe(tmp_path: Path) -> None:
    node = helper.make_node(
        "MaxPool", ["x"], ["y"], kernel_shape=[3, 3], dilations=[2, 2], auto_pad="VALID"
    )
    assert load_network(saved(tmp_path, node)).geometry.verdict == "safe"


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("automatic", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("size", [(32, 31), (30, 29)])
def test_a_transposed_convolution_to_a_size(
    tmp_path: Path, groups: int, automatic: str, size: tuple[int, int]
) -> None:
    """Which no inference of onnx's follows; what is traced is what onnxruntime does."""
    node = helper.make_node(
        "ConvTranspose", ["x", "w"], ["y"],
        strides=[2, 2], output_shape=size, auto_pad=automatic, group=groups,
    )  # fmt: skip
    weights = np.random.default_rng(1).random((groups, 2, 3, 3), dtype=np.float32)
    path = saved(tmp_path, node, weights, inputs=[value("x", [1, groups, 16, 16])])
    verdict = stitchsafe.check(path, probe=True)
    assert verdict.safe
    assert verdict.probe is not None
    assert verdict.probe.own.axes
    assert verdict.geometry.outputs[0].channels == 2 * groups


def test_a_transposed_convolution_to_one_size_from_any_is_none(tmp_path: Path) -> None:
    node = helper.make_node(
        "ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], output_shape=[32, 32]
    )
    (found,) = load_network(saved(tmp_path, node)).geometry.breaks
    assert "follow the size of the input" in found.reason


def test_normalisation_over_channels_and_over_space(tmp_path: Path) -> None:
    for axes, verdict in (([1], "safe"), ([0, 1], "safe"), ([1, 2], "unsafe"), ([2, 3], "unsafe")):
        node = helper.make_node("MeanVarianceNormalization", ["x"], ["y"], axes=axes)
        geometry = load_network(saved(tmp_path, node, channels=3)).geometry
        assert geometry.verdict == verdict, axes
        assert all("takes its statistics from the whole" in b.reason for b in geometry.breaks)
        assert [axis.context for axis in geometry.axes] == [(0, 0), (0, 0)]


def test_a_number_is_no_image(tmp_path: Path) -> None:
    node = helper.make_node("Mul", ["x", "w"], ["y"])
    with pytest.raises(ModelError, match=r"has the shape \[1, 1, 1, 1\], a number and no image"):
        load_network(saved(tmp_path, node, inputs=[value("x", [1, 1, 1, 1])]))
