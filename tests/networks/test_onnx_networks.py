"""ONNX files as networks: layouts, types, what a file may not do, and what damages it."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx.external_data_helper import set_external_data
from onnx_graphs import constant, convolution, exported, model, saved, smoothing, value
from torch import nn

import stitchsafe
from stitchsafe.errors import InputError, MissingExtraError, ModelError, PlanError
from stitchsafe.networks import OnnxNetwork, Runtime, load_network, load_onnx
from stitchsafe.pipeline import check

pytest.importorskip("onnxruntime", reason="onnxruntime comes with the extra onnx")


def plain() -> onnx.ModelProto:
    return model([convolution()], weights=[smoothing()])


def refusal(path: Path, **options: Any) -> str:
    """The one line that a file is refused with."""
    with pytest.raises(ModelError) as caught:
        load_onnx(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.count(";") >= 1  # the last part says what to do
    return message


# running


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


def test_a_graph_computes_what_torch_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Two()
    network = load_network(exported(module, tmp_path / "two.onnx", (1, 3, 16, 16)))
    assert isinstance(network, OnnxNetwork)
    assert (network.name, network.ndim, network.channels) == ("two", 2, 3)
    assert [(o.name, o.channels) for o in network.outputs] == [("y", 2)]
    assert network.parameter_bytes == 4 * sum(p.numel() for p in module.parameters())
    batch = np.random.default_rng(0).normal(size=(2, 3, 20, 31)).astype(np.float32)
    (found,) = network.run(batch)
    with torch.no_grad():
        expected = module(torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [[1, "h", "w", 2], ["n", 30, 40, 2]])
def test_channels_last_is_found_and_undone(tmp_path: Path, sizes: list[Any]) -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["a"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["a", "weight"], ["b"], pads=[1] * 4),
        helper.make_node("Transpose", ["b"], ["y"], perm=[0, 2, 3, 1]),
    ]
    last = model(nodes, inputs=[value("x", sizes)], weights=[smoothing(channels=2)])
    first = model([convolution()], channels=2, weights=[smoothing(channels=2)])
    batch = np.random.default_rng(0).normal(size=(1, 2, 30, 40)).astype(np.float32)
    expected = load_onnx(saved(tmp_path, first, "first.onnx")).run(batch)[0]
    found = load_onnx(saved(tmp_path, last, "last.onnx")).run(batch)[0]
    assert found.shape == (1, 2, 30, 40)
    np.testing.assert_array_equal(found, expected)


def test_axes_that_sizes_misread_are_read_from_the_operators(tmp_path: Path) -> None:
    """A fixed image of 2 by 2 voxels with 8 channels in front."""
    weights = [smoothing(channels=8)]
    content = model([convolution()], inputs=[value("x", [1, 8, 2, 2])], weights=weights)
    network = load_onnx(saved(tmp_path, content))
    assert (network.channels, network.fixed) == (8, (2, 2))


def test_stated_axes_win(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Unsqueeze", ["x", "one"], ["a"]),
        helper.make_node("Conv", ["a", "weight"], ["b"], pads=[1] * 6),
        helper.make_node("Squeeze", ["b", "one"], ["y"]),
    ]
    content = model(
        nodes,
        inputs=[value("x", [1, None, None, None])],
        weights=[smoothing(ndim=3), constant("one", [1], np.int64)],
    )
    path = saved(tmp_path, content)
    network = load_onnx(path, axes={"x": "bzyx", "y": "bzyx"})
    assert (network.ndim, network.channels) == (3, 1)
    assert network.run(np.ones((1, 1, 4, 5, 6), np.float32))[0].shape == (1, 1, 4, 5, 6)
    assert "channels" in refusal(path)
    assert "'bcqx'" in refusal(path, axes="bcqx")
    assert "'z'" in refusal(path, axes={"z": "bcyx"})


def test_several_inputs_are_consecutive_channels(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["a", "weight"], ["smooth"], pads=[1] * 4),
        helper.make_node("Sub", ["smooth", "b"], ["difference"]),
        helper.make_node("Mul", ["b", "b"], ["gpu_0/square"]),
    ]
    content = model(
        nodes,
        inputs=[value("a", [1, 2, "h", "w"]), value("b", [1, 2, "h", "w"])],
        outputs=[value("difference", [1, 2, "h", "w"]), value("gpu_0/square", [1, 2, "h", "w"])],
        weights=[smoothing(channels=2)],
    )
    network = load_onnx(saved(tmp_path, content))
    assert network.channels == 4
    assert [o.name for o in network.outputs] == ["difference", "output1"]
    batch = np.random.default_rng(0).normal(size=(1, 4, 9, 8)).astype(np.float32)
    difference, square = network.run(batch)
    np.testing.assert_array_equal(square, batch[:, 2:] ** 2)
    assert np.abs(difference + batch[:, 2:]).max() > 0


@pytest.mark.parametrize(
    ("dtype", "given", "taken"),
    [
        (TensorProto.UINT8, [0.0, 2.6, 254.9, 300.0, -4.0], [0, 3, 255, 255, 0]),
        (TensorProto.FLOAT16, [0.0, 0.5, 2.0, 3.0, -4.0], [0.0, 0.5, 2.0, 3.0, -4.0]),
    ],
)
def test_inputs_of_other_types(
    tmp_path: Path, dtype: int, given: list[float], taken: list[float]
) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["a", "two"], ["y"]),
    ]
    content = model(
        nodes, inputs=[value("x", [1, 1, "h", "w"], dtype)], weights=[constant("two", 2)]
    )
    batch = np.asarray(given, np.float32).reshape(1, 1, 1, 5)
    (found,) = load_onnx(saved(tmp_path, content)).run(batch)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.ravel(), 2 * np.asarray(taken, np.float32))


def test_precision_is_the_graphs_own(tmp_path: Path) -> None:
    network = load_onnx(saved(tmp_path, plain()))
    assert network.precision == "float32"
    with pytest.raises(PlanError, match="not in float64; leave --precision out"):
        network.prepare(Runtime(precision="float64"))


def halved(module: nn.Module, path: Path) -> Path:
    """A module in half precision as ONNX, its weights, its types and a cast in the middle."""
    content = onnx.load(exported(module, path, (1, 1, 16, 16)))
    for tensor in content.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            tensor.CopyFrom(constant(tensor.name, values, np.float16))
    for each in (*content.graph.input, *content.graph.output):
        each.type.tensor_type.elem_type = TensorProto.FLOAT16
    (last,) = content.graph.output
    kept = helper.make_tensor_value_info("half", TensorProto.FLOAT16, [None] * 4)
    for node in content.graph.node:
        node.output[:] = ["half" if name == last.name else name for name in node.output]
    content.graph.node.extend(
        [
            helper.make_node("Constant", [], ["two"], value=constant("two", 2, np.float16)),
            helper.make_node("Cast", ["half"], ["wide"], to=TensorProto.DOUBLE),
            helper.make_node("Cast", ["wide"], ["back"], to=TensorProto.FLOAT16),
            helper.make_node("Mul", ["back", "two"], [last.name]),
        ]
    )
    content.graph.value_info.extend([kept])
    path.write_bytes(content.SerializeToString())
    return path


@pytest.mark.parametrize("external", [False, True])
def test_a_graph_of_float16_runs_in_float32(tmp_path: Path, external: bool) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.ConvTranspose2d(4, 2, 2, 2)
    )
    path = halved(module, tmp_path / "half.onnx")
    if external:
        onnx.save(
            onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0
        )
    network = load_onnx(path)
    assert network.precision == "float16"
    count = sum(p.numel() for p in module.parameters())
    assert network.parameter_bytes == 4 * count
    image = np.random.default_rng(0).normal(size=(70, 90)).astype(np.float32)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.data = parameter.data.half().float()
        expected = 2 * module(torch.from_numpy(image)[None, None])[0].numpy()
    options: dict[str, Any] = {"save": "fields", "tile_shape": (16, 20), "max_memory": 10**10}
    made = stitchsafe.predict(image, network, precision="float32", **options)
    (field,) = made.fields.values()
    assert field.dtype == np.float32
    assert np.abs(field - expected).max() <= 1e-5 * np.abs(expected).max()
    assert stitchsafe.plan(image, network, **options).recipe.precision == "float32"
    with pytest.raises(PlanError, match=r"in float16 or float32, .* and not in float64"):
        stitchsafe.plan(image, network, precision="float64", **options)
    if not external:
        found = stitchsafe.check(path, probe=True)
        assert (found.safe, found.probe.precision, found.probe.equal) == (True, "float32", True)
    rounded = network  # and what it is by itself stays what it was
    rounded.prepare(Runtime(precision="float16"))
    own = rounded.run(image[None, None, :64, :64])[0]
    assert own.dtype == np.float32  # in which fields are kept
    assert np.array_equal(own, own.astype(np.float16))
    assert 1e-5 < np.abs(own[0, :, :40, :40] - expected[:, :40, :40]).max() < 2e-2


def test_what_is_too_large_in_float32_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = halved(nn.Conv2d(1, 4, 3), tmp_path / "half.onnx")
    monkeypatch.setattr("stitchsafe.networks._onnx_half.LARGEST", 100)
    with pytest.raises(ModelError, match="export it with float32 weights as external data"):
        load_onnx(path).prepare(Runtime(precision="float32"))


def test_the_same_threads_give_the_same_bits(tmp_path: Path) -> None:
    network = load_onnx(saved(tmp_path, model([convolution()], weights=[smoothing()])))
    batch = np.random.default_rng(0).normal(size=(1, 1, 64, 64)).astype(np.float32)
    found = []
    for _ in range(2):
        network.prepare(Runtime(threads=2))
        found.append(network.run(batch)[0])
    np.testing.assert_array_equal(*found)


def test_the_fingerprint_follows_weights_and_layout(tmp_path: Path) -> None:
    path = saved(tmp_path, plain())
    other = plain()
    other.graph.initializer[0].CopyFrom(constant("weight", np.ones((1, 1, 3, 3))))
    found = [
        load_onnx(path).fingerprint,
        load_onnx(path).fingerprint,
        load_onnx(path, axes="bcxy").fingerprint,
        load_onnx(saved(tmp_path, other, "other.onnx")).fingerprint,
    ]
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_a_czann_archive_is_read_in_place(tmp_path: Path) -> None:
    path = tmp_path / "model.czann"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.json", json.dumps({"Type": "Regression"}))
        archive.writestr("model.model", plain().SerializeToString())
        archive.writestr("../escaped", b"")
    batch = np.ones((1, 1, 6, 7), np.float32)
    expected = load_onnx(saved(tmp_path, plain())).run(batch)[0]
    np.testing.assert_array_equal(load_network(path).run(batch)[0], expected)
    assert not (tmp_path.parent / "escaped").exists()


def test_devices_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    network = load_onnx(saved(tmp_path, plain()))
    with pytest.raises(InputError, match="'tpu' is none"):
        network.prepare(Runtime(device="tpu"))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(InputError, match=r"processors only; .*stitchsafe\[onnx-gpu\]"):
        network.prepare(Runtime(device="cuda"))
    monkeypatch.setattr("stitchsafe.networks._onnx_session.version", lambda name: "1")
    with pytest.raises(
        InputError, match=r"both installed .* uninstall onnxruntime onnxruntime-gpu"
    ):
        network.prepare(Runtime(device="cuda:0"))
    with pytest.warns(RuntimeWarning, match="both installed"):
        network.prepare(Runtime(device="cpu"))


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    path = saved(tmp_path, plain())
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"^{package} is .*stitchsafe\[onnx\]"):
        load_onnx(path)


# weights in further files


def with_external(location: str, **entries: int) -> onnx.ModelProto:
    content = plain()
    tensor = content.graph.initializer[0]
    set_external_data(tensor, location, **entries)
    tensor.ClearField("raw_data")
    return content


WEIGHTS = np.linspace(0, 1, 9, dtype=np.float32).tobytes()


def test_weights_beside_the_model_are_read(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "data.bin").write_bytes(b"head" + WEIGHTS)
    path = saved(tmp_path, with_external("sub/data.bin", offset=4, length=36))
    network = load_onnx(path)
    (found,) = network.run(np.ones((1, 1, 5, 5), np.float32))
    assert found[0, 0, 2, 2] == pytest.approx(4.5)
    (tmp_path / "sub" / "data.bin").write_bytes(b"head" + WEIGHTS[::-1])
    assert load_onnx(path).fingerprint != network.fingerprint


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("../data.bin", "not a place inside its own folder"),
        ("sub/../../data.bin", "not a place inside its own folder"),
        ("..\\data.bin", "not a place inside its own folder"),
        ("{absolute}", "not a place inside its own folder"),
        ("C:\\data.bin", "not a place inside its own folder"),
        ("C:data.bin", "not a place inside its own folder"),
        ("", "not a place inside its own folder"),
        ("link.bin", "outside its folder"),
        ("folder/data.bin", "outside its folder"),
        ("absent.bin", "no such file"),
        (".", "no such file"),
    ],
)
def test_weights_elsewhere_are_refused(tmp_path: Path, location: str, reason: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "data.bin").write_bytes(WEIGHTS)
    (folder / "link.bin").symlink_to(tmp_path / "data.bin")
    (folder / "folder").symlink_to(tmp_path)
    place = location.format(absolute=tmp_path / "data.bin")
    assert reason in refusal(saved(folder, with_external(place)))


def test_external_weights_hidden_in_a_node_are_found(tmp_path: Path) -> None:
    tensor = with_external("../data.bin").graph.initializer[0]
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "then", [],
                              [value("c", None)])  # fmt: skip
    nodes = [
        helper.make_node("If", ["flag"], ["weight"], then_branch=inner, else_branch=inner),
        convolution(),
    ]
    content = model(nodes, weights=[constant("flag", True, bool)])
    assert "'../data.bin'" in refusal(saved(tmp_path, content))


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(WEIGHTS[:20])
    assert "truncated" in refusal(saved(tmp_path, with_external("data.bin", offset=0, length=36)))
    refusal(saved(tmp_path, with_external("data.bin"), "unsized.onnx"))


def test_an_archive_may_not_keep_weights_outside(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(WEIGHTS)
    path = tmp_path / "model.czann"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.model", with_external("data.bin").SerializeToString())
    assert "outside the archive" in refusal(path)


# damage


@pytest.mark.parametrize("suffix", [".onnx", ".czann"])
@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"no model at all", b"PK\x03\x04 cut"])
def test_files_that_are_no_model(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    refusal(path)


def test_truncation_anywhere_is_one_line(tmp_path: Path) -> None:
    whole = plain().SerializeToString()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.model", whole)
    for name, content in (("model.onnx", whole), ("model.czann", packed.getvalue())):
        for length in range(0, len(content) - 1, 5):
            path = tmp_path / name
            path.write_bytes(content[:length])
            refusal(path)


def test_flipped_bytes_are_one_line_or_another_model(tmp_path: Path) -> None:
    whole = bytearray(plain().SerializeToString())
    refused = 0
    for place in range(len(whole)):
        damaged = whole.copy()
        damaged[place] ^= 0x10
        path = tmp_path / "model.onnx"
        path.write_bytes(damaged)
        try:
            assert load_onnx(path).geometry.verdict in ("safe", "unsafe")
        except ModelError as error:
            assert "\n" not in str(error)  # noqa: PT017
            refused += 1
    assert refused > len(whole) // 4


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (model([convolution()], weights=[smoothing()], opset=999), "opset"),
        (model([convolution()], weights=[smoothing()], opset=99), "Opset 99 is under development"),
        (model([helper.make_node("Conv", ["x", "weight"], ["y"])]), "weight"),
        (model([helper.make_node("Nonsense", ["x"], ["y"])]), "Nonsense"),
        (
            model([helper.make_node("Own", ["x"], ["y"], domain="mine")], domains={"mine": 1}),
            "mine:Own",
        ),
        (
            model(
                [helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft")],
                domains={"com.microsoft": 1},
            ),
            "com.microsoft:EPContext",
        ),
        (
            model(
                [helper.make_node("Absent", ["x"], ["y"], domain="com.microsoft")],
                domains={"com.microsoft": 1},
            ),
            "Absent",
        ),
        (
            model([helper.make_node("Relu", ["x"], ["y"])], inputs=[value("x", [4, 1, 8, 8])]),
            "batches of 4",
        ),
        (
            model([helper.make_node("Relu", ["x"], ["y"])], inputs=[value("x", [1, 8])]),
            "has 2 axes",
        ),
        (
            model(
                [helper.make_node("Relu", ["x"], ["y"])], inputs=[value("x", [None] * 4)]
            ),
            "channels",
        ),
    ],
)  # fmt: skip
def test_graphs_that_do_not_load(tmp_path: Path, content: onnx.ModelProto, reason: str) -> None:
    assert reason in refusal(saved(tmp_path, content))


def test_a_file_beyond_what_protocol_buffers_hold(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)
    assert "external data" in refusal(path)


def test_positive_weights_give_what_was_traced(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.PReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1), nn.ConvTranspose2d(4, 4, 2, 2), nn.Conv2d(4, 1, 3),
    ).eval()  # fmt: skip
    network = load_onnx(exported(module, tmp_path / "network.onnx", (1, 1, 16, 16)))
    before = network.run(np.ones((1, 1, 16, 16), np.float32))
    found = check(network, probe=True)
    assert found.safe
    assert found.probe is not None
    assert found.probe.equal is True
    assert found.probe.precision == "float32"
    again = network.run(np.ones((1, 1, 16, 16), np.float32))
    assert all((a == b).all() for a, b in zip(before, again, strict=True))
