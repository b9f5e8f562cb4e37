"""ONNX graphs and torch modules have one geometry; what breaks locality is named; real models."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, reject, settings
from hypothesis.strategies import DrawFn
from onnx import helper
from onnx.external_data_helper import set_external_data
from onnx_exactness import tiles_differ_by
from onnx_graphs import constant, exported, model, saved, smoothing, value
from torch import nn
from torch.nn import functional as F

from stitchsafe.errors import PlanError
from stitchsafe.geometry import NetworkGeometry, analyse_module, probe
from stitchsafe.networks import OnnxNetwork, load_onnx

pytest.importorskip("onnxruntime", reason="onnxruntime comes with the extra onnx")


# random graphs of local operators


class Softmax(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, dim=1)


class ChannelsLast(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(channels), nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.linear(self.norm(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)


class Skip(nn.Module):
    """Down, something, up, and joined with what was before: sum or concatenation."""

    def __init__(self, inner: nn.Module, factor: int, way: str, joins: str) -> None:
        super().__init__()
        self.inner, self.factor, self.way, self.joins = inner, factor, way, joins
        self.up = nn.ConvTranspose2d(4, 4, factor, factor)
        self.last = nn.Conv2d(8 if joins == "cat" else 4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = self.inner(F.max_pool2d(x, self.factor))
        if self.way == "learnt":
            up = self.up(low)
        elif self.way == "linear":
            up = F.interpolate(low, scale_factor=2.0, mode="bilinear", align_corners=False)
        else:
            up = F.interpolate(low, size=x.shape[2:])
        return self.last(torch.cat([x, up], 1) if self.joins == "cat" else x + up)


def _conv(draw: DrawFn) -> nn.Module:
    k = draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    return nn.Conv2d(
        4, 4, k,
        stride=draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (2, 2)])),
        padding=draw(st.sampled_from([(0, 0), (1, 1), (k[0] // 2, k[1] // 2)])),
        dilation=draw(st.sampled_from([1, 1, 2])),
        groups=draw(st.sampled_from([1, 2, 4])),
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "replicate"])),
    )  # fmt: skip


def _transposed(draw: DrawFn) -> nn.Module:
    s = draw(st.integers(1, 2))
    k = draw(st.integers(s, 3))
    return nn.ConvTranspose2d(
        4, 4, k, s, padding=draw(st.integers(0, 1)),
        output_padding=draw(st.integers(0, s - 1)), groups=draw(st.sampled_from([1, 2])),
    )  # fmt: skip


def _pool(draw: DrawFn) -> nn.Module:
    k = draw(st.integers(2, 3))
    how: dict[str, Any] = {
        "stride": draw(st.sampled_from([1, 2])), "padding": draw(st.integers(0, k // 2)),
        "ceil_mode": draw(st.booleans()),
    }  # fmt: skip
    if draw(st.booleans()):
        return nn.AvgPool2d(k, count_include_pad=draw(st.booleans()), **how)
    return nn.MaxPool2d(k, **how)


def _plain(draw: DrawFn) -> nn.Module:
    return draw(
        st.sampled_from(
            [
                nn.PReLU(4), nn.Hardswish(), nn.ELU(), nn.BatchNorm2d(4), Softmax(),
                ChannelsLast(4), nn.Upsample(scale_factor=2), nn.ReflectionPad2d((2, 0, 1, 2)),
                nn.Sequential(nn.Conv2d(4, 16, 1), nn.PixelShuffle(2)),
                nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(16, 4, 1)),
            ]
        )
    )  # fmt: skip


@st.composite
def modules(draw: DrawFn) -> nn.Module:
    """A chain of local operators, some of them with a path beside a lower resolution."""
    makers: list[Callable[[DrawFn], nn.Module]] = [_conv, _conv, _transposed, _pool, _plain, _plain]
    parts = [draw(st.sampled_from(makers))(draw) for _ in range(draw(st.integers(1, 3)))]
    if draw(st.booleans()):
        inner: nn.Module = nn.Conv2d(4, 4, 3, padding=1)
        if draw(st.booleans()):
            inner = nn.Sequential(inner, Skip(nn.Conv2d(4, 4, 3, padding=1), 2, "learnt", "cat"))
        way = draw(st.sampled_from(["learnt", "nearest", "linear"]))
        factor = 2 if way == "linear" else draw(st.integers(2, 3))
        skip = Skip(inner, factor, way, draw(st.sampled_from(["cat", "sum"])))
        parts.insert(draw(st.integers(0, len(parts))), skip)
    return nn.Sequential(nn.Conv2d(1, 4, 1), *parts)


def prepared(module: nn.Module) -> nn.Module:
    """With generic positive weights, so that nothing cancels."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.uniform_(parameter, 0.05, 0.5)
    return module.eval()


def both(
    module: nn.Module, known: NetworkGeometry | None = None
) -> tuple[NetworkGeometry, OnnxNetwork]:
    """The geometry of a module by the torch tracer, and the module as an ONNX network."""
    known = known or analyse_module(module, ndim=2, channels=1)
    sizes = [a.input_min + -(-48 // a.input_step) * a.input_step for a in known.axes] or [48, 48]
    with tempfile.TemporaryDirectory() as folder:
        return known, load_onnx(exported(module, Path(folder) / "m.onnx", (1, 1, *sizes)))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(module=modules())
def test_both_tracers_agree_and_tiles_equal_the_whole(module: nn.Module) -> None:
    # A random graph may join sizes that fit each other nowhere, and then runs nowhere.
    first = analyse_module(prepared(module), ndim=2, channels=1)
    assume(first.verdict == "safe" and max(first.period) <= 12)
    known, network = both(module, first)
    found = network.geometry
    assert found.verdict == "safe"
    for one, other in zip(found.axes, known.axes, strict=True):
        # Of one element, torch's tracer does not tell whether it is an axis or a channel.
        assert one.input_min <= other.input_min
        assert replace(one, input_min=other.input_min) == other
    assert [each.axes for each in found.outputs] == [each.axes for each in known.outputs]
    assert tiles_differ_by(network, periods=3) < 1e-5


class Calls(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Conv2d(2, 4, 1), nn.Sigmoid()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale(x)


def _attention(x: torch.Tensor) -> torch.Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    scores = torch.softmax(tokens @ tokens.transpose(1, 2), -1)
    return (scores @ tokens).transpose(1, 2).reshape(x.shape)


def _grid(x: torch.Tensor) -> torch.Tensor:
    places = x[:, :2].permute(0, 2, 3, 1)
    return F.grid_sample(x, places, align_corners=False)


def _ramp(x: torch.Tensor) -> torch.Tensor:
    return x + torch.arange(x.shape[-1]).to(x.dtype)


RANDOM = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    # Explaining a failure traces torch line by line, which takes for ever.
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)

BREAKING: dict[str, tuple[nn.Module, str, str]] = {
    "instance norm": (nn.InstanceNorm2d(4), "InstanceNormalization", "instance normalisation"),
    "group norm": (nn.GroupNorm(2, 4), "InstanceNormalization", "instance normalisation"),
    "squeeze-excite": (SqueezeExcite(), "GlobalAveragePool", "global pooling"),
    "mean": (Calls(lambda x: x - x.mean((2, 3), keepdim=True)), "ReduceMean", "global pooling"),
    "maximum": (Calls(lambda x: x / x.amax(3, keepdim=True)), "ReduceMax", "reduction over space"),
    "softmax": (Calls(lambda x: torch.softmax(x, -1)), "Softmax", "softmax"),
    "attention": (Calls(_attention), "MatMul", "attention over space"),
    "flip": (Calls(lambda x: x.flip(2)), "Slice", "flip"),
    "align_corners": (
        Calls(lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)),
        "Resize", "align_corners",
    ),
    "cubic": (
        Calls(lambda x: F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False)),
        "Resize", "cubic",
    ),
    "sampled": (Calls(_grid), "GridSample", "samples"),
    "rows": (Calls(lambda x: torch.cumsum(x, 2)), "CumSum", "whole of space"),
    "ramp": (Calls(_ramp), "Add", "varies over space"),
}  # fmt: skip


@settings(RANDOM, max_examples=5)  # each kind by itself: test_what_breaks_is_named_by_both
@given(
    module=modules(),
    place=st.integers(1, 4),
    # Those whose output lies as their input does, so that they fit anywhere in a chain.
    name=st.sampled_from(["instance norm", "group norm", "squeeze-excite", "mean", "softmax"]),
)
def test_one_breaking_operator_in_a_random_graph_is_named(
    module: nn.Sequential, place: int, name: str
) -> None:
    whole = analyse_module(prepared(module), ndim=2, channels=1)
    assume(whole.verdict == "safe")
    inner, op, reason = BREAKING[name]
    parts = list(module)
    place = min(place, len(parts))
    parts.insert(place, inner)
    broken = prepared(nn.Sequential(*parts))
    known = analyse_module(broken, ndim=2, channels=1)
    sizes = [a.input_min + -(-48 // a.input_step) * a.input_step for a in whole.axes]
    with tempfile.TemporaryDirectory() as folder:
        try:
            file = exported(broken, Path(folder) / "m.onnx", (1, 1, *sizes))
        except torch.onnx.errors.SymbolicValueError:  # of a norm after padding, by torch itself
            reject()
        found = load_onnx(file).geometry
    assert (known.verdict, found.verdict) == ("unsafe", "unsafe")
    assert known.breaks[0].layer.split(".")[0] == str(place)
    assert found.breaks[0].op == op
    assert reason in found.breaks[0].reason
    assert found.breaks[0].layer.startswith(f"/{place}/")


@settings(RANDOM, max_examples=3)
@given(module=modules())
def test_onnxruntime_depends_on_no_more_than_was_traced(module: nn.Module) -> None:
    first = analyse_module(prepared(module), ndim=2, channels=1)
    assume(first.verdict == "safe" and max(first.period) <= 6)
    _, network = both(module)
    measured = probe(network.run, network.geometry, dtype=np.float32)
    assert not measured.contradictions
    assert measured.passes > 0


@pytest.mark.parametrize(("inner", "op", "reason"), BREAKING.values(), ids=BREAKING)
def test_what_breaks_is_named_by_both(inner: nn.Module, op: str, reason: str) -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2), inner, nn.Conv2d(4, 1, 3)
    )
    known, network = both(prepared(module))
    found = network.geometry
    assert (known.verdict, found.verdict) == ("unsafe", "unsafe")
    assert known.breaks[0].layer.startswith("2")
    assert found.breaks[0].op == op
    assert reason in found.breaks[0].reason
    assert found.breaks[0].layer.startswith("/2")
    # What comes after a layer that keeps its place is not blamed.
    assert all(each.layer.startswith("/2") for each in found.breaks)


# graphs of their own


def named(folder: Path, nodes: list[onnx.NodeProto], **options: Any) -> list[tuple[str, str, str]]:
    """Layer, operator and reason of what breaks a graph."""
    network = load_onnx(saved(folder, model(nodes, **options)))
    assert network.geometry.verdict == "unsafe"
    return [(b.layer, b.op, b.reason) for b in network.geometry.breaks]


def node(op: str, *inputs: str, out: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), out.split(), name=f"the {op}", **attributes)


def _branch(name: str) -> onnx.GraphProto:
    inner = [helper.make_node("Relu", ["x"], [name])]
    return helper.make_graph(inner, name, [], [value(name, None)])


GRAPHS: dict[str, tuple[list[onnx.NodeProto], str]] = {
    "wrap": ([node("Pad", "x", "pads", mode="wrap")], "circular"),
    "global max": ([node("GlobalMaxPool", "x", out="a"), node("Add", "x", "a")], "global pooling"),
    "batch norm in training": (
        [node("BatchNormalization", "x", *["one"] * 4, out="y m v", training_mode=1)],
        "batch normalisation in training mode",
    ),
    "softmax of old sets over all that follows": (
        [node("Softmax", "x", axis=3)], "softmax mixes",
    ),
    "normalised": ([node("MeanVarianceNormalization", "x")], "mean and variance"),
    "spatial layer norm": (
        [node("LayerNormalization", "x", "row", axis=-1)], "layer normalisation",
    ),
    "places of the maxima": (
        [node("MaxPool", "x", out="a b", kernel_shape=[2, 2], strides=[2, 2]),
         node("Cast", "b", to=onnx.TensorProto.FLOAT)], "tells places",
    ),
    "random": ([node("RandomNormalLike", "x", out="a"), node("Add", "x", "a")], "not analysed"),
    "if": (
        [node("ReduceMax", "x", out="a", keepdims=0), node("Greater", "a", "zero", out="b"),
         node("If", "b", then_branch=_branch("p"), else_branch=_branch("q"))],
        "global pooling",
    ),
    "top over space": ([node("TopK", "x", "ones", out="y z", axis=2)], "whole of space"),
    "one row": ([node("Gather", "x", "rows", axis=2, out="a"), node("Add", "x", "a")],
                "a part of space is spread"),
    "product over space": ([node("MatMul", "x", "many")], "mixes the whole input"),
    "scatter": ([node("ScatterND", "x", "where", "what")], "not analysed"),
    "upside down": ([node("Transpose", "x", perm=[0, 1, 3, 2], out="a"), node("Add", "a", "x")],
                    "lie over space in different ways"),
    "resize by 1.5": ([node("Resize", "x", "", "scales", mode="nearest")], "no whole factor"),
    "a crop of the middle": ([node("Resize", "x", "roi", "twice", mode="linear",
                                   coordinate_transformation_mode="tf_crop_and_resize")],
                             "tf_crop_and_resize"),
    "a window beyond all images": (
        [node("MaxPool", "x", kernel_shape=[10**8, 1], pads=[10**8 - 1, 0, 0, 0])],
        "window or stride of 100000000",
    ),
    "a value as a setting": (
        [node("ReduceMax", "x", out="a"), node("Clip", "x", "", "a")], "global pooling",
    ),
}  # fmt: skip
CONSTANTS = [
    constant("pads", [0, 0, 1, 1, 0, 0, 1, 1], np.int64), constant("one", [1]),
    constant("zero", 0), constant("ones", [1], np.int64), constant("row", np.ones(64)),
    constant("rows", [3], np.int64), constant("many", np.ones((64, 64))),
    constant("where", [[0, 0, 1, 1]], np.int64), constant("what", [5]),
    constant("scales", [1, 1, 1.5, 1.5]), constant("twice", [1, 1, 2, 2]),
    constant("roi", [0, 0, 0, 0, 1, 1, 1, 1]),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "reason"), GRAPHS.values(), ids=GRAPHS)
def test_graphs_that_break_locality(
    tmp_path: Path, nodes: list[onnx.NodeProto], reason: str
) -> None:
    used = {name for each in nodes for name in each.input}
    weights = [each for each in CONSTANTS if each.name in used]
    fixed = used & {"row", "many"}
    options: dict[str, Any] = {"inputs": [value("x", [1, 1, 64, 64])]} if fixed else {}
    found = named(tmp_path, nodes, weights=weights, opset=19, **options)
    assert any(reason in each for _, _, each in found), found
    assert found[0][0].startswith("the ")


def test_group_normalisation_as_an_operator(tmp_path: Path) -> None:
    nodes = [node("GroupNormalization", "x", "one", "one", num_groups=1)]
    ((layer, op, reason),) = named(tmp_path, nodes, weights=[constant("one", [1])], opset=21)
    assert (layer, op) == ("the GroupNormalization", "GroupNormalization")
    assert "group normalisation takes its statistics" in reason


def test_softmax_of_old_operator_sets_takes_all_that_follows(tmp_path: Path) -> None:
    """Over channels and space before opset 13, over channels alone since."""
    nodes = [node("Softmax", "x", axis=1)]
    assert "softmax" in named(tmp_path, nodes, opset=12, channels=3)[0][2]
    network = load_onnx(saved(tmp_path, model(nodes, opset=13, channels=3)))
    assert network.geometry.verdict == "safe"


def test_a_constant_that_follows_the_size_is_found_out(tmp_path: Path) -> None:
    """The image divided by its own length: uniform at each size, and another one at the next."""
    nodes = [
        node("Shape", "x", out="s", start=2, end=3),
        node("Cast", "s", out="c", to=onnx.TensorProto.FLOAT),
        node("Div", "x", "c"),
    ]
    assert "follow the size of the input" in named(tmp_path, nodes)[0][2]
    same = [*nodes[:2], node("Sub", "c", "c", out="d"), node("Add", "x", "d")]
    assert load_onnx(saved(tmp_path, model(same))).geometry.verdict == "safe"


def test_channels_that_follow_the_size_are_found_out(tmp_path: Path) -> None:
    """Which channels are taken depends on the size: at another one, the program is another."""
    nodes = [
        node("Shape", "x", out="s", start=2, end=3), node("Mod", "s", "two", out="begin"),
        node("Add", "begin", "two", out="end"), node("Slice", "x", "begin", "end", "one"),
    ]  # fmt: skip
    weights = [constant("two", [2], np.int64), constant("one", [1], np.int64)]
    assert (
        "follow the size of the input" in named(tmp_path, nodes, weights=weights, channels=4)[0][2]
    )


def test_constants_in_further_files_are_read(tmp_path: Path) -> None:
    """A slope that is told channels apart is no matter, and one that tells places apart is."""
    for shape, verdict in (((4, 1, 1), "safe"), ((1, 1, 64), "unsafe")):
        content = model(
            [node("PRelu", "x", "slope")], channels=4,
            inputs=[value("x", [1, 4, 64, 64])], weights=[constant("slope", np.zeros(shape))],
        )  # fmt: skip
        numbers = np.linspace(0, 1, int(np.prod(shape)), dtype=np.float32)
        (tmp_path / f"{verdict}.bin").write_bytes(numbers.tobytes())
        set_external_data(content.graph.initializer[0], f"{verdict}.bin")
        content.graph.initializer[0].ClearField("raw_data")
        network = load_onnx(saved(tmp_path, content, f"{verdict}.onnx"))
        assert network.geometry.verdict == verdict


def test_loops_of_constants_are_not_run(tmp_path: Path) -> None:
    """One that would never end is refused, at once."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["v", "v"], ["w"])],
        "body",
        [value("i", [], onnx.TensorProto.INT64), value("go", [], onnx.TensorProto.BOOL),
         value("v", [])],
        [value("on", [], onnx.TensorProto.BOOL), value("w", [])],
    )  # fmt: skip
    nodes = [node("Loop", "", "yes", "zero", out="a", body=body), node("Add", "x", "a")]
    weights = [constant("yes", True, bool), constant("zero", 0)]
    assert named(tmp_path, nodes, weights=weights)[0][1] == "Loop"


def test_three_axes_and_two_inputs(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x", "weight", out="a", pads=[1, 0, 1, 0, 1, 1]),
        node("MaxPool", "a", out="b", kernel_shape=[1, 2, 2], strides=[1, 2, 2]),
        node("Resize", "b", "", "scales", out="c", mode="nearest"),
        node("Slice", "other", "begin", "end", "axes", out="d"),
        node("Sub", "c", "d"),
    ]
    weights = [
        smoothing(ndim=3), constant("scales", [1, 1, 1, 2, 2]),
        constant("begin", [0, 0, 0], np.int64), constant("end", [-1, -1, 10**9], np.int64),
        constant("axes", [2, 3, 4], np.int64),
    ]  # fmt: skip
    sizes: list[Any] = [1, 1, "z", "h", "w"]
    content = model(
        nodes, weights=weights, ndim=3, inputs=[value("x", sizes), value("other", sizes)]
    )
    network = load_onnx(saved(tmp_path, content))
    assert (network.ndim, network.channels) == (3, 2)
    assert [i.name for i in network.geometry.inputs] == ["x", "other"]
    assert network.geometry.period == (1, 2, 2)
    assert tiles_differ_by(network) < 1e-6


def test_local_functions_are_followed(tmp_path: Path) -> None:
    """A function that smooths, and one that normalises."""
    smooth = [helper.make_node("Conv", ["a", "b"], ["c"], name="inner", pads=[1] * 4)]
    rough = [helper.make_node("InstanceNormalization", ["a", "b", "b"], ["c"], name="inner")]
    for inner, verdict in ((smooth, "safe"), (rough, "unsafe")):
        opsets = [helper.make_opsetid("", 18)]
        function = helper.make_function("own", "Layer", ["a", "b"], ["c"], inner, opsets)
        content = model(
            [helper.make_node("Layer", ["x", "weight"], ["y"], domain="own", name="outer")],
            weights=[smoothing() if verdict == "safe" else constant("weight", [1])],
            domains={"own": 1},
        )
        content.functions.append(function)
        found = load_onnx(saved(tmp_path, content)).geometry
        assert found.verdict == verdict
        if verdict == "unsafe":
            assert "inner" in found.breaks[0].layer


def test_what_no_output_depends_on_is_not_blamed(tmp_path: Path) -> None:
    nodes = [node("GlobalMaxPool", "x", out="unused"), node("Relu", "x")]
    assert load_onnx(saved(tmp_path, model(nodes))).geometry.verdict == "safe"


def test_layouts_of_outputs_are_found(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["a"], pads=[1] * 4),
        helper.make_node("Transpose", ["a"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("ArgMax", ["a"], ["index"], axis=1, keepdims=0),
    ]
    outputs = [value("last", [None] * 4), value("index", [None] * 3, onnx.TensorProto.INT64)]
    content = model(nodes, outputs=outputs, channels=2, weights=[smoothing(channels=2)])
    network = load_onnx(saved(tmp_path, content))
    assert [(o.name, o.channels, o.layout) for o in network.geometry.outputs] == [
        ("last", 2, "byxc"), ("index", 1, "byx"),
    ]  # fmt: skip
    assert [(o.name, o.channels) for o in network.outputs] == [("last", 2), ("index", 1)]
    last, index = network.run(np.random.default_rng(0).normal(size=(1, 2, 9, 8)).astype("f4"))
    assert (last.shape, index.shape) == ((1, 2, 9, 8), (1, 1, 9, 8))
    np.testing.assert_array_equal(last.argmax(1), index[:, 0])


def test_a_fixed_shape_is_kept(tmp_path: Path) -> None:
    content = model(
        [helper.make_node("Conv", ["x", "weight"], ["y"], pads=[1] * 4)],
        inputs=[value("x", [1, 1, 40, 48])], weights=[smoothing()],
    )  # fmt: skip
    network = load_onnx(saved(tmp_path, content))
    sizes = [(a.input_min, a.input_step) for a in network.geometry.axes]
    assert sizes == [(40, 0), (48, 0)]
    assert network.geometry.verdict == "safe"
    with pytest.raises(PlanError, match="states an input of 40 voxels, not 32"):
        network.trace((32, 48))


def test_cost_and_memory_of_a_pass(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    network = load_onnx(saved(tmp_path, model(nodes, weights=[smoothing()])))
    graph = network.trace((10, 20))
    assert graph.flops() == 2 * 9 * 200
    assert graph.activation_bytes(4) == 3 * 200 * 4
    assert graph.parameters_bytes == network.parameter_bytes == 36


def test_huge_constants_are_not_computed_with(tmp_path: Path) -> None:
    nodes = [
        node("ConstantOfShape", "many", out="filled"),
        node("ReduceSum", "filled", out="sum", keepdims=0),
        node("Mul", "x", "sum"),
    ]
    many = constant("many", [10**12], np.int64)
    found = named(tmp_path, nodes, weights=[many])
    assert found[0][1] == "ReduceSum"
    assert "computed" in found[0][2]
