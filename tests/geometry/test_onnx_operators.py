"""Every ONNX operator that is called safe, on the running network: tiles equal the whole pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_exactness import stitched_differs_by, tiles_differ_by
from onnx_graphs import constant, model, saved, value

from stitchsafe.networks import OnnxNetwork, load_onnx

pytest.importorskip("onnxruntime", reason="onnxruntime comes with the extra onnx")

Nodes = list[onnx.NodeProto]
INTS = np.int64


def node(op: str, *inputs: str, out: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), out.split(), name=f"{op} {out}", **attributes)


def kernel(*shape: int, name: str = "w") -> onnx.TensorProto:
    """Positive weights, all different, so that nothing cancels."""
    return constant(name, np.random.default_rng(1).uniform(0.1, 1, shape))


def network(
    folder: Path, nodes: Nodes, weights: list[onnx.TensorProto] | None = None, **options: Any
) -> OnnxNetwork:
    return load_onnx(saved(folder, model(nodes, weights=weights, **options)))


def variants() -> dict[str, tuple[Nodes, list[onnx.TensorProto]]]:
    """Windows of all kinds, by name."""
    found: dict[str, tuple[Nodes, list[onnx.TensorProto]]] = {}
    for k, s, pads, d in (
        (3, 1, [0, 0, 0, 0], 1), (3, 2, [1, 0, 0, 1], 1), (2, 2, [0, 0, 0, 0], 1),
        (4, 3, [2, 1, 0, 3], 1), (3, 1, [2, 2, 2, 2], 2), (5, 2, [1, 1, 1, 1], 2),
    ):  # fmt: skip
        how: dict[str, Any] = {"strides": [s, s], "pads": pads, "dilations": [d, d]}
        window = {"kernel_shape": [k, k], "strides": [s, s], "pads": pads}
        name = f"k{k} s{s} p{pads} d{d}"
        found[f"conv {name}"] = [node("Conv", "x", "w", **how)], [kernel(1, 1, k, k)]
        found[f"transposed {name}"] = (
            [node("ConvTranspose", "x", "w", output_padding=[s - 1] * 2, **how)],
            [kernel(1, 1, k, k)],
        )
        found[f"max {name}"] = [node("MaxPool", "x", kernel_shape=[k, k], **how)], []
        for ceil in (0, 1):
            for count in (0, 1):
                found[f"mean {name} ceil{ceil} count{count}"] = (
                    [node("AveragePool", "x", ceil_mode=ceil, count_include_pad=count, **window)],
                    [],
                )
            found[f"max {name} ceil{ceil}"] = [node("MaxPool", "x", ceil_mode=ceil, **window)], []
        found[f"lp {name}"] = [node("LpPool", "x", p=3, **window)], []
    for pad in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        for k, s in ((2, 1), (3, 2), (4, 2), (5, 3), (2, 3)):
            how = {"strides": [s, s], "auto_pad": pad}
            name = f"k{k} s{s} {pad}"
            found[f"conv {name}"] = [node("Conv", "x", "w", **how)], [kernel(1, 1, k, k)]
            if k >= s:
                found[f"transposed {name}"] = (
                    [node("ConvTranspose", "x", "w", **how)], [kernel(1, 1, k, k)],
                )  # fmt: skip
            found[f"max {name}"] = [node("MaxPool", "x", kernel_shape=[k, k], **how)], []
            found[f"mean {name}"] = [node("AveragePool", "x", kernel_shape=[k, k], **how)], []
    return found


@pytest.mark.parametrize(("nodes", "weights"), variants().values(), ids=variants())
def test_windows(tmp_path: Path, nodes: Nodes, weights: list[onnx.TensorProto]) -> None:
    found = network(tmp_path, nodes, weights, opset=19)
    assert tiles_differ_by(found) < 1e-6
    assert stitched_differs_by(found) < 1e-6


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("opset", [11, 18, 22])
def test_sizes_behind_rounded_up_pooling_are_the_runtimes(
    tmp_path: Path, op: str, opset: int
) -> None:
    """onnx's own inference counts a window over padding alone, which onnxruntime leaves out."""
    if op == "LpPool" and opset < 18:
        pytest.skip("has no ceil_mode yet")
    for k, s, pads in ((2, 2, (1, 1)), (3, 3, (1, 0)), (2, 3, (0, 1)), (4, 3, (1, 2))):
        how = {"kernel_shape": [k, 1], "strides": [s, 1], "pads": [pads[0], 0, pads[1], 0]}
        found = network(tmp_path, [node(op, "x", ceil_mode=1, **how)], opset=opset)
        for size in range(5, 14):
            (port,) = (graph := found.trace((size, 1))).outputs
            expected = found.run(np.ones((1, 1, size, 1), np.float32))[0].shape
            assert graph.nodes[port.node].shape == expected


@pytest.mark.parametrize("extra", [[0, 0], [1, 1]])
@pytest.mark.parametrize("pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
def test_a_transposed_convolution_with_a_stated_output(
    tmp_path: Path, pad: str, extra: list[int]
) -> None:
    """Its pads follow from the output that is asked for, which only one size fits."""
    nodes = [
        node(
            "ConvTranspose",
            "x",
            "w",
            strides=[2, 2],
            output_shape=[33, 32],
            output_padding=extra,
            auto_pad=pad,
        )
    ]
    found = network(tmp_path, nodes, [kernel(1, 1, 4, 4)], inputs=[value("x", [1, 1, 16, 16])])
    rows, columns = found.geometry.axes
    assert found.geometry.verdict == "safe"
    image = np.zeros((1, 1, 16, 16), np.float32)
    image[..., 8, 8] = 1
    reached = np.argwhere(found.run(image)[0][0, 0])
    for axis, low, high in zip((0, 1), reached.min(0), reached.max(0), strict=True):
        own = found.geometry.outputs[0].axes[axis]
        read = [
            e for e in range(own.size(16))
            if (each := own.support[e % 2]) is not None
            and each[0] <= 8 - (e // 2) <= each[1]
        ]  # fmt: skip
        assert (read[0], read[-1]) == (low, high)
    assert (rows.input_min, rows.input_step, columns.input_step) == (16, 0, 0)


RESIZES = [
    (mode, places, rounding, factor)
    for places in ("half_pixel", "asymmetric", "pytorch_half_pixel", "half_pixel_symmetric")
    for mode, rounding, factors in (
        ("nearest", "round_prefer_floor", (2, 3, 1 / 2, 1 / 4)),
        ("nearest", "round_prefer_ceil", (2, 3, 1 / 2)),
        ("nearest", "floor", (2, 3, 1 / 2, 1 / 4)),
        ("nearest", "ceil", (2, 3, 1 / 2)),
        ("linear", "floor", (2, 4, 1 / 2, 1 / 4)),
    )
    for factor in factors
]


@pytest.mark.parametrize("by", ["scales", "sizes"])
@pytest.mark.parametrize(("mode", "places", "rounding", "factor"), RESIZES)
def test_resizes(
    tmp_path: Path, mode: str, places: str, rounding: str, factor: float, by: str
) -> None:
    how = {
        "mode": mode, "coordinate_transformation_mode": places, "nearest_mode": rounding,
    }  # fmt: skip
    up = max(1, round(factor))
    down = max(1, round(1 / factor))
    nodes = [
        node("Shape", "x", out="shape"),
        node("Mul", "shape", "up", out="many"),
        node("Div", "many", "down", out="sizes"),
        node("Resize", "x", "", *(["scales"] if by == "scales" else ["", "sizes"]), **how),
    ]
    weights = [
        constant("scales", [1, 1, factor, factor]),
        constant("up", [1, 1, up, up], INTS),
        constant("down", [1, 1, down, down], INTS),
    ]
    assert tiles_differ_by(network(tmp_path, nodes, weights, opset=19)) < 1e-6


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("factor", [2.0, 0.5])
@pytest.mark.parametrize(("op", "opset"), [("Upsample", 9), ("Upsample", 7), ("Resize", 10)])
def test_resizes_of_old_operator_sets(
    tmp_path: Path, op: str, opset: int, mode: str, factor: float
) -> None:
    if op == "Upsample" and factor < 1:
        pytest.skip("upsampling only enlarges")
    scales = [1.0, 1.0, factor, factor]
    if opset == 7:
        nodes = [node(op, "x", mode=mode, scales=scales)]
    else:
        nodes = [node(op, "x", "scales", mode=mode)]
    weights = [constant("scales", scales)] if opset > 7 else []
    assert tiles_differ_by(network(tmp_path, nodes, weights, opset=opset)) < 1e-6


def shuffles() -> dict[str, tuple[Nodes, list[onnx.TensorProto]]]:
    """Layouts, cuts, elements and constants; each around a convolution that makes seams show."""
    first = node("Conv", "x", "weight", out="a", pads=[1] * 4)
    eight = [kernel(8, 2, 3, 3, name="weight")]
    last = [0, 2, 3, 1], [0, 3, 1, 2]
    ints = {
        "one": [1], "two": [2], "three": [3], "minus": [-1], "far": [10**9], "four": [4, 4],
        "pads": [0, 0, 1, 2, 0, 0, 2, 0], "cut": [0, 0, -1, 2, 0, 0, 1, -2], "even": [0, 2, 4, 6],
    }  # fmt: skip
    numbers = [constant(name, each, INTS) for name, each in ints.items()]
    floats = [
        constant("slope", np.linspace(0.1, 1, 8).reshape(8, 1, 1)),
        constant("half", 0.5), constant("square", np.linspace(0, 1, 64).reshape(8, 8)),
        constant("each", np.linspace(0.5, 2, 8)), constant("ones", np.ones((1, 8, 1, 1))),
    ]  # fmt: skip
    weights = [*eight, *numbers, *floats]
    listed: dict[str, Nodes] = {
        "space to depth": [node("SpaceToDepth", "a", blocksize=2, out="b"),
                           node("Conv", "b", "joining")],
        "depth to space DCR": [node("DepthToSpace", "a", blocksize=2, mode="DCR")],
        "depth to space CRD": [node("DepthToSpace", "a", blocksize=2, mode="CRD")],
        "channels last": [
            node("Transpose", "a", out="b", perm=last[0]),
            node("MatMul", "b", "square", out="c"),
            node("Add", "c", "each", out="d"),
            node("LayerNormalization", "d", "each", out="e"),
            node("Softmax", "e", out="f"),
            node("Transpose", "f", perm=last[1]),
        ],
        "slice": [node("Slice", "a", "two", "far", "three", out="b"),
                  node("Slice", "b", "one", "minus", "two")],
        "strided slice": [node("Slice", "a", "one", "far", "two", "three")],
        "flipped channels": [node("Slice", "a", "minus", "gone", "one", "minus")],
        "every other row": [node("Slice", "a", "one", "far", "two", "two")],
        "reflect": [node("Pad", "a", "pads", mode="reflect")],
        "edge": [node("Pad", "a", "pads", mode="edge")],
        "zeros": [node("Pad", "a", "pads", "half")],
        "crop by pad": [node("Pad", "a", "cut")],
        "split, concat": [
            node("Split", "a", "four", out="b c", axis=1),
            node("Sigmoid", "b", out="d"),
            node("Concat", "d", "c", "b", axis=1),
        ],
        "gather channels": [node("Gather", "a", "even", axis=1)],
        "one channel": [node("Gather", "a", "first", out="b", axis=1),
                        node("Unsqueeze", "b", "one")],
        "elements": [
            node("PRelu", "a", "slope", out="b"),
            node("HardSwish", "b", out="c"),
            node("Clip", "c", "", "half", out="d"),
            node("Erf", "d", out="e"),
            node("Greater", "e", "half", out="f"),
            node("Where", "f", "a", "half"),
        ],
        "gelu and max": [node("Gelu", "a", out="b"), node("Max", "a", "b", "half")],
        "batch norm": [node("BatchNormalization", "a", *["each"] * 4)],
        "argmax": [node("ArgMax", "a", out="b", axis=1, keepdims=0),
                   node("Unsqueeze", "b", "one", out="c"),
                   node("Cast", "c", to=TensorProto.FLOAT)],
        "one hot": [node("ArgMax", "a", out="b", axis=1, keepdims=0),
                    node("OneHot", "b", "eight", "values", axis=1)],
        "embedding": [node("ArgMax", "a", out="b", axis=1, keepdims=0),
                      node("Gather", "square", "b", out="c"),
                      node("Transpose", "c", perm=last[1])],
        "normalised over channels": [node("LpNormalization", "a", axis=1, out="b"),
                                     node("LRN", "b", size=3, out="c"),
                                     node("ReduceMean", "c", "one", out="d"),
                                     node("Sub", "c", "d")],
        "expand": [node("ReduceMax", "a", "one", out="b"), node("Shape", "a", out="s"),
                   node("Expand", "b", "s", out="c"), node("Mul", "a", "c")],
        "constant of the shape": [node("Shape", "a", out="s"),
                                  node("ConstantOfShape", "s", out="c"), node("Add", "a", "c")],
        "windows": [
            # mean over windows of 4 rows, then taken off again
            node("Shape", "a", out="s"), node("Gather", "s", "three", out="wide"),
            node("Gather", "s", "two", out="high"), node("Div", "high", "quad", out="rows"),
            node("Concat", "front", "rows", "quad", "wide", out="opened", axis=0),
            node("Reshape", "a", "opened", out="b"),
            node("ReduceMean", "b", "three", out="c"), node("Sub", "b", "c", out="d"),
            node("Reshape", "d", "s"),
        ],
        "a constant per place in a window": [
            node("Shape", "a", out="s"), node("Gather", "s", "three", out="wide"),
            node("Gather", "s", "two", out="high"), node("Div", "high", "quad", out="rows"),
            node("Concat", "front", "rows", "quad", "wide", out="opened", axis=0),
            node("Reshape", "a", "opened", out="b"), node("Add", "b", "ramp", out="c"),
            node("Reshape", "c", "s"),
        ],
    }  # fmt: skip
    weights += [
        kernel(3, 32, 1, 1, name="joining"),
        constant("gone", [-(10**9)], INTS), constant("first", 3, INTS),
        constant("eight", 8, INTS), constant("values", [0, 1]), constant("quad", [4], INTS),
        constant("front", [1, 8], INTS),
        constant("ramp", np.arange(4).reshape(4, 1)),
    ]  # fmt: skip
    return {name: ([first, *nodes], weights) for name, nodes in listed.items()}


@pytest.mark.parametrize(("nodes", "weights"), shuffles().values(), ids=shuffles())
def test_what_stands_between_windows(
    tmp_path: Path, nodes: Nodes, weights: list[onnx.TensorProto]
) -> None:
    used = {name for each in nodes for name in each.input}
    needed = [each for each in weights if each.name in used]
    outputs = [value("y", [None] * 4)]
    opset = 20 if any(each.op_type == "Gelu" for each in nodes) else 18
    found = network(tmp_path, nodes, needed, channels=2, outputs=outputs, opset=opset)
    assert tiles_differ_by(found) < 2e-6


def test_supports_are_no_wider_than_what_reaches(tmp_path: Path) -> None:
    """One voxel changed changes all elements that are said to depend on it, and no other."""
    nodes = [
        node("Conv", "x", "w", out="a", strides=[2, 2], pads=[1, 0, 0, 2]),
        node("MaxPool", "a", out="b", kernel_shape=[1, 1]),
        node("Resize", "b", "", "scales", mode="linear", out="c"),
        node("AveragePool", "c", kernel_shape=[3, 2], pads=[1, 1, 1, 0]),
    ]
    found = network(tmp_path, nodes, [kernel(1, 1, 3, 4), constant("scales", [1, 1, 2, 2])])
    size = 32
    image = np.ones((1, 1, size, size), np.float32)
    before = found.run(image)[0]
    for place in range(12, 20):
        image[..., place, place] += 1
        reached = np.argwhere(found.run(image)[0][0, 0] != before[0, 0])
        image[..., place, place] -= 1
        for axis in (0, 1):
            own = found.geometry.outputs[0].axes[axis]
            period, n = found.geometry.axes[axis].period, len(own.support)
            told = [
                e for e in range(own.size(size))
                if (each := own.support[e % n]) is not None
                and each[0] + e // n * period <= place <= each[1] + e // n * period
            ]  # fmt: skip
            assert sorted(set(reached[:, axis])) == told
