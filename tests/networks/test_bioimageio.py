"""bioimage.io packages: what they say, and that they give what they say they give."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from model_files import UNET_SOURCE, package, small_package, space

import stitchsafe
from stitchsafe.errors import ModelError
from stitchsafe.networks import ModelConfig, TorchNetwork, load_network
from stitchsafe.networks._bioimageio import model_config
from stitchsafe.networks._description import read_description


def described(folder: Path, content: dict[str, Any]) -> ModelConfig:
    path = folder / "bioimageio.yaml"
    path.write_text(yaml.safe_dump(content))
    return model_config(read_description(path, folder), folder)


def with_step(step: dict[str, Any], where: str = "inputs", channels: int = 1) -> dict[str, Any]:
    content = package()
    for tensor in (*content["inputs"], *content["outputs"]):
        tensor["preprocessing"], tensor["postprocessing"] = [], []
        names = [f"c{k}" for k in range(channels)]
        tensor["axes"][1] = {"type": "channel", "channel_names": names}
    key = "preprocessing" if where == "inputs" else "postprocessing"
    content[where][0][key] = [step]
    return content


@pytest.fixture
def packages(shared_data: Path) -> Path:
    return shared_data / "models"


def with_source(packages: Path, name: str, target: Path) -> Path:
    """A package at hand, with the architecture that it lacks."""
    shutil.copytree(packages / f"bioimageio_unet2d_{name}", target)
    (path,) = target.glob("*.yaml")
    content = yaml.safe_load(path.read_text())
    weights = content["weights"]["pytorch_state_dict"]
    weights.pop("architecture_sha256", None)
    if isinstance(weights["architecture"], dict):
        weights["architecture"].pop("sha256", None)
        source = weights["architecture"]["source"]
    else:
        source = weights["architecture"].split(":")[0]
    path.write_text(yaml.safe_dump(content))
    (target / source).write_text(UNET_SOURCE)
    return target


def scaled(values: np.ndarray) -> np.ndarray:
    return ((values - values.mean()) / (values.std() + 1e-6)).astype(np.float32)


@pytest.mark.parametrize("name", ["fixed_shape", "diff_output_shape", "multi_tensor"])
def test_a_package_whose_source_is_absent_says_so(packages: Path, name: str) -> None:
    folder = packages / f"bioimageio_unet2d_{name}"
    with pytest.raises(ModelError, match="--trust-model"):
        load_network(folder)
    with pytest.raises(ModelError, match=r"architecture's source, \w+\.py, is absent") as caught:
        load_network(folder, trust=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["fixed_shape", "diff_output_shape", "multi_tensor"])
def test_a_network_gives_the_packages_own_output(packages: Path, tmp_path: Path, name: str) -> None:
    folder = with_source(packages, name, tmp_path / name)
    network = load_network(folder, trust=True)
    assert network.config is not None
    inputs = sorted(folder.glob("test_input*.npy"))
    volume = np.concatenate([scaled(np.load(path)) for path in inputs], axis=1)
    assert network.channels == len(inputs) == volume.shape[1]
    found = network.run(volume)
    expected = [np.load(path) for path in sorted(folder.glob("test_output*.npy"))]
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, atol=1e-4 * np.abs(theirs).max())


def test_predict_gives_the_output_of_a_package_with_several_tensors(
    packages: Path, tmp_path: Path
) -> None:
    folder = with_source(packages, "multi_tensor", tmp_path / "package")
    volume = np.concatenate([np.load(folder / f"test_input_{k}.npy")[0] for k in range(2)])
    made = stitchsafe.predict(volume, folder, trust_model=True, save="fields", axes="cyx")
    assert made.plan.recipe.exact
    for k in range(2):
        expected = np.load(folder / f"test_output_{k}.npy")[0]
        np.testing.assert_allclose(made.fields[f"output{k}"], expected, atol=1e-5)


def test_instance_norm_is_named_though_a_halo_is_declared(packages: Path, tmp_path: Path) -> None:
    folder = with_source(packages, "fixed_shape", tmp_path / "package")
    verdict = stitchsafe.check(folder, trust_model=True)
    assert verdict.geometry.verdict == "unsafe"
    assert any("norm" in each.op for each in verdict.geometry.breaks)


def test_predict_gives_the_output_of_nuclei_broad(packages: Path, tmp_path: Path) -> None:
    """By the weights of its ONNX file in a network of torch."""
    onnx = pytest.importorskip("onnx")
    folder = tmp_path / "package"
    shutil.copytree(packages / "bioimageio_unet2d_nuclei_broad", folder)
    graph = onnx.load(folder / "weights.onnx").graph
    names = {"encoders": "encoder.blocks", "decoders": "decoder.blocks", "base": "base"}
    state = {}
    for tensor in graph.initializer:
        part, *rest = tensor.name.split(".")
        values = torch.from_numpy(np.array(onnx.numpy_helper.to_array(tensor)))
        if part == "output":
            key = f"out_conv.{rest[0]}"
        elif part == "upsamplers":
            key = f"decoder.samplers.{rest[0]}.conv.{rest[2]}"
        else:
            # Two convolutions, then one activation.
            key = ".".join([names[part], *rest[:-2], "block", *rest[-2:]])
        state[key] = values
    torch.save(state, folder / "weights.pt")
    one_activation = UNET_SOURCE.replace(
        "nn.Conv2d(channels, outside, 3, padding=1), nn.ReLU()]",
        "nn.Conv2d(channels, outside, 3, padding=1)]",
    ).replace("nn.Sequential(*parts)", "nn.Sequential(*parts, nn.ReLU())")
    one_activation = one_activation.replace("[x, kept.pop()]", "[kept.pop(), x]")
    (folder / "net.py").write_text(one_activation)
    content = yaml.safe_load((folder / "bioimageio.yaml").read_text())
    arguments = {"in_channels": 1, "out_channels": 1, "initial_features": 16, "depth": 3}
    content["weights"] = {
        "pytorch_state_dict": {
            "source": "weights.pt",
            "architecture": {
                "source": "net.py",
                "callable": "UNet2d",
                "kwargs": {**arguments, "norm": False},
            },
        }
    }
    (folder / "bioimageio.yaml").write_text(yaml.safe_dump(content))
    volume = np.load(folder / "test_input.npy")[0, 0]
    made = stitchsafe.predict(
        volume, folder, trust_model=True, save="fields", tile_shape=(128, 128)
    )
    expected = np.load(folder / "test_output.npy")[0]
    difference = float(np.abs(made.fields["probability"] - expected).max())
    print(f"largest difference {difference:.3g}")
    assert made.plan.tiles == 16
    assert difference <= 1e-5


def test_predict_gives_the_output_of_nuclei_broad_by_onnx(packages: Path, tmp_path: Path) -> None:
    pytest.importorskip("stitchsafe.networks._onnx")
    pytest.importorskip("onnxruntime")
    folder = packages / "bioimageio_unet2d_nuclei_broad"
    zipped = tmp_path / "nuclei.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    volume = np.load(folder / "test_input.npy")[0, 0]
    expected = np.load(folder / "test_output.npy")[0]
    for place in (folder, zipped):
        made = stitchsafe.predict(volume, place, save="fields")
        difference = float(np.abs(made.fields["probability"] - expected).max())
        print(f"largest difference {difference:.3g}")
        assert difference <= 1e-5


def test_a_description_becomes_a_configuration(tmp_path: Path) -> None:
    content = package(license="MIT")
    for name, scale, unit in (("y", 0.5, "micrometer"), ("x", 250, "nanometer")):
        axis = next(a for a in content["inputs"][0]["axes"] if a.get("id") == name)
        axis |= {"scale": scale, "unit": unit}
    content["outputs"][0]["axes"][2]["halo"] = 16
    config = described(tmp_path, content)
    assert (config.name, config.license, config.input.axes) == ("small", "MIT", "yx")
    assert config.input.voxel_size == (0.5, 0.25)
    assert config.input.unit == "micrometer"
    (tensor,) = config.input.tensors
    assert [step.model_dump() for step in tensor.preprocessing] == [
        {"kind": "zscore", "together": False, "eps": 1e-6}
    ]
    (output,) = config.outputs
    assert (output.name, output.channels) == ("probability", 1)
    assert [step.kind for step in output.postprocessing] == ["sigmoid"]
    assert config.declared is not None
    assert (config.declared.input_min, config.declared.input_step) == ((8, 8), (4, 4))
    assert config.declared.halo == (16, 0)


def test_a_description_in_the_older_format(packages: Path) -> None:
    folder = packages / "bioimageio_unet2d_fixed_shape"
    path = folder / "v0_4.bioimageio.yaml"
    config = model_config(read_description(path, folder), folder)
    assert config.declared is not None
    assert config.declared.input_min == (256, 256)
    assert config.declared.input_step == (0, 0)
    assert config.declared.halo == (8, 8)
    assert config.input.voxel_size is None
    (tensor,) = config.input.tensors
    assert [step.kind for step in tensor.preprocessing] == ["zscore"]
    assert tensor.preprocessing[0].together  # type: ignore[union-attr]


def test_channels_of_an_older_output_follow_from_its_input(tmp_path: Path) -> None:
    shape = {
        "reference_tensor": "raw", "scale": [1, 1, 1, 1, 1], "offset": [0, 1.5, 0, 0, 0],
    }  # fmt: skip
    content = {
        "format_version": "0.4.9",
        "type": "model",
        "name": "older",
        "inputs": [{
            "name": "raw", "axes": "bczyx",
            "shape": {"min": [1, 2, 8, 8, 8], "step": [0, 0, 1, 4, 4]},
            "preprocessing": [{
                "name": "zero_mean_unit_variance",
                "kwargs": {"mode": "fixed", "axes": "zyx", "mean": [1, 2], "std": [1, 4], "eps": 0},
            }],
        }],
        "outputs": [{"name": "out", "axes": "bczyx", "shape": shape}],
        "weights": {"onnx": {"source": "a.onnx"}},
    }  # fmt: skip
    config = described(tmp_path, content)
    assert config.outputs[0].channels == 5
    assert config.declared is not None
    assert config.declared.input_step == (1, 4, 4)
    (step,) = config.input.tensors[0].preprocessing
    assert step.model_dump() == {"kind": "linear", "gain": (1, 0.25), "offset": (-1, -0.5)}


STEPS = {
    "scale_range": (
        {"min_percentile": 1, "max_percentile": 99.8, "axes": ["channel", "y", "x"]},
        {"kind": "percentiles", "low": 1, "high": 99.8, "together": True, "eps": 1e-6},
    ),
    "scale_linear": (
        {"axis": "channel", "gain": [1, 2], "offset": [3, 4]},
        {"kind": "linear", "gain": (1, 2), "offset": (3, 4)},
    ),
    "fixed_zero_mean_unit_variance": (
        {"mean": 3, "std": 4}, {"kind": "linear", "gain": (0.25,), "offset": (-0.75,)},
    ),
    "clip": ({"min": 0, "max": 1}, {"kind": "clip", "low": 0, "high": 1}),
    "binarize": ({"threshold": 0.5}, {"kind": "binarize", "threshold": (0.5,)}),
    "sigmoid": ({}, {"kind": "sigmoid"}),
    "ensure_dtype": ({"dtype": "uint8"}, {"kind": "integer", "dtype": "uint8"}),
    "zero_mean_unit_variance": ({}, {"kind": "zscore", "together": True, "eps": 1e-6}),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_each_step_is_understood(tmp_path: Path, name: str) -> None:
    given, expected = STEPS[name]
    config = described(tmp_path, with_step({"id": name, "kwargs": given}, channels=2))
    (step,) = config.input.tensors[0].preprocessing
    assert step.model_dump() == expected


def test_clipping_by_percentiles_and_softmax(tmp_path: Path) -> None:
    step = {"id": "clip", "kwargs": {"min_percentile": 2, "axes": ["y", "x"]}}
    config = described(tmp_path, with_step(step))
    assert config.input.tensors[0].preprocessing[0].model_dump() == {
        "kind": "clip_percentiles", "low": 2, "high": None, "together": False,
    }  # fmt: skip
    config = described(tmp_path, with_step({"id": "softmax"}, "outputs", channels=3))
    assert [step.kind for step in config.outputs[0].postprocessing] == ["softmax"]


@pytest.mark.parametrize(
    ("step", "saying"),
    [
        ({"id": "zero_mean_unit_variance", "kwargs": {"axes": ["x"]}}, "not of the whole volume"),
        ({"id": "zero_mean_unit_variance", "kwargs": {"axes": ["z", "x"]}}, "axis 'z'"),
        ({"id": "zero_mean_unit_variance", "kwargs": {"epsilon": 1}}, "epsilon: Extra inputs"),
        ({"id": "scale_range", "kwargs": {"reference_tensor": "other"}}, "percentiles of 'other'"),
        ({"id": "scale_linear", "kwargs": {"axis": "y", "gain": [1, 2]}}, "along 'y'"),
        ({"id": "scale_linear", "kwargs": {"gain": [1, 2, 3]}}, "3 numbers for gain"),
        ({"id": "stardist_postprocessing"}, "'stardist_postprocessing' of the tensor 'raw'"),
        ({"id": "softmax"}, "mixes the channels"),
        ({"id": "custom", "callable": "f", "source": "f.py"}, "'custom' of the tensor 'raw'"),
    ],
)
def test_a_step_that_cannot_be_done_is_refused_by_name(
    tmp_path: Path, step: dict[str, Any], saying: str
) -> None:
    with pytest.raises(ModelError, match=saying) as caught:
        described(tmp_path, with_step(step))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("step", "saying"),
    [
        (
            {"id": "scale_mean_variance", "kwargs": {"reference_tensor": "raw"}},
            "mean and deviation of 'raw', another tensor",
        ),
        (
            {"id": "scale_range", "kwargs": {"reference_tensor": "raw"}},
            "percentiles of 'raw', another tensor",
        ),
        ({"id": "stardist_postprocessing", "kwargs": {"n_rays": 32}}, "no processing step that is"),
        ({"id": "custom", "callable": "f", "source": "f.py"}, "no processing step that is known"),
    ],
)
def test_what_cannot_be_done_after_a_network_is_left_out_aloud(
    tmp_path: Path, step: dict[str, Any], saying: str
) -> None:
    name = step["id"]
    content = with_step(step, "outputs")
    content["outputs"][0]["postprocessing"] = [{"id": "sigmoid"}, step, {"id": "sigmoid"}]
    config = described(tmp_path, content)
    assert [step.kind for step in config.outputs[0].postprocessing] == ["sigmoid"]
    (left,) = config.skipped
    assert left.steps == (name, "sigmoid")
    assert f"without the description's {name}, sigmoid" in str(left)
    assert saying in str(left)


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        ({"id": "scale_range"}, "percentiles"),
        ({"id": "zero_mean_unit_variance"}, "zscore"),
        ({"id": "clip", "kwargs": {"max_percentile": 99}}, "clip_percentiles"),
    ],
)
def test_steps_with_statistics_of_the_output_come_when_it_is_whole(
    tmp_path: Path, step: dict[str, Any], kind: str
) -> None:
    content = with_step(step, "outputs")
    content["outputs"][0]["postprocessing"] = [{"id": "sigmoid"}, step, {"id": "sigmoid"}]
    config = described(tmp_path, content)
    assert config.skipped == ()
    (output,) = config.outputs
    assert [step.kind for step in output.postprocessing] == ["sigmoid"]
    assert [step.kind for step in output.finishing] == [kind, "sigmoid"]


@pytest.mark.parametrize(
    ("last", "saying"),
    [
        ("softmax", "mixes the channels"),
        ("stardist_postprocessing", "is no processing step that is"),
    ],
)
def test_such_a_step_is_left_out_with_one_that_cannot_follow_it(
    tmp_path: Path, last: str, saying: str
) -> None:
    content = with_step({"id": "sigmoid"}, "outputs")
    names = ["sigmoid", "scale_range", "sigmoid", last]
    content["outputs"][0]["postprocessing"] = [{"id": name} for name in names]
    config = described(tmp_path, content)
    assert [step.kind for step in config.outputs[0].postprocessing] == ["sigmoid"]
    assert config.outputs[0].finishing == ()
    (left,) = config.skipped
    assert left.steps == tuple(names[1:])
    assert f"{last}, which {saying}" in left.reason


@pytest.mark.parametrize(
    ("axis", "saying"),
    [
        ({"type": "time", "size": 1}, "'time'"),
        ({"type": "index", "size": 1}, "'index'"),
        (space("w"), "'w'"),
    ],
)
def test_other_axes_are_refused(tmp_path: Path, axis: dict[str, Any], saying: str) -> None:
    content = package()
    content["inputs"][0]["axes"].append(axis)
    with pytest.raises(ModelError, match=saying):
        described(tmp_path, content)


@pytest.mark.parametrize("name", ["../../evil", "a/b", "", ".."])
def test_an_output_cannot_be_named_out_of_the_store(tmp_path: Path, name: str) -> None:
    content = package()
    content["outputs"][0]["id"] = name
    with pytest.raises(ModelError, match="kept in a folder of its name"):
        described(tmp_path, content)


def test_other_orders_of_axes_are_adapted(tmp_path: Path) -> None:
    source = """
from torch import nn
class Last(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.conv = nn.Conv2d(1, features, 3, padding=1)
    def forward(self, x):
        return self.conv(x.permute(0, 3, 2, 1)).permute(0, 3, 2, 1)
def make(features):
    return Last(features)
"""
    content = package()
    channel = {"type": "channel", "channel_names": ["a", "b", "c"]}
    content["outputs"][0]["axes"][1] = channel
    content["outputs"][0]["postprocessing"] = []
    for tensor in (content["inputs"][0], content["outputs"][0]):
        b, c, y, x = tensor["axes"]
        tensor["axes"] = [b, x, y, c]
    folder = small_package(tmp_path / "last", source, **content)
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(1, 3, 3, padding=1)
    state = {f"conv.{name}": value for name, value in conv.state_dict().items()}
    torch.save(state, folder / "weights.pt")
    network = load_network(folder, trust=True)
    assert isinstance(network, TorchNetwork)
    x = np.random.default_rng(0).normal(size=(1, 1, 12, 20)).astype(np.float32)
    with torch.no_grad():
        expected = conv(torch.from_numpy(x)).numpy()
    (found,) = network.run(x)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert network.geometry.verdict == "safe"


def test_a_package_may_be_a_zip_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small_package(tmp_path / "small")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    archive = Path(shutil.make_archive(str(tmp_path / "small"), "zip", folder))
    before = {path.name for path in tmp_path.iterdir()}
    network = load_network(archive, trust=True)
    assert network.fingerprint == load_network(folder, trust=True).fingerprint
    assert {path.name for path in tmp_path.iterdir()} == before
    left = [p.name for p in scratch.iterdir()]
    assert [name for name in left if not name.startswith("torchinductor")] == []


def test_postprocessing_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    one = small_package(tmp_path / "one")
    content = package()
    content["outputs"][0]["postprocessing"] = []
    other = small_package(tmp_path / "other", **content)
    first, second = (load_network(folder, trust=True) for folder in (one, other))
    assert first.fingerprint != second.fingerprint
    x = np.random.default_rng(0).normal(size=(1, 1, 12, 20)).astype(np.float32)
    (sigmoid,), (plain,) = first.run(x), second.run(x)
    np.testing.assert_allclose(sigmoid, 1 / (1 + np.exp(-plain)), atol=1e-6)


def test_channels_that_are_described_wrongly_are_refused(tmp_path: Path) -> None:
    content = package()
    channel = {"type": "channel", "channel_names": ["a", "b"]}
    content["outputs"][0]["axes"][1] = channel
    folder = small_package(tmp_path / "small", **content)
    with pytest.raises(ModelError, match=r"outputs of \[2\] channels, and its network gives \[1\]"):
        load_network(folder, trust=True)


def test_the_other_implementation_reads_the_same(packages: Path) -> None:
    spec = pytest.importorskip("bioimageio.spec")
    for name in ("diff_output_shape", "multi_tensor", "nuclei_broad"):
        folder = packages / f"bioimageio_unet2d_{name}"
        path = folder / "bioimageio.yaml"
        ours = read_description(path, folder)
        with spec.ValidationContext(root=folder, perform_io_checks=False):
            theirs = spec.build_description(yaml.safe_load(path.read_text()))
        if "_serializer" in str(theirs.validation_summary.details):
            pytest.skip("this release of bioimageio.spec cannot work with this one of pydantic")
        for mine, other in zip(
            (*ours.inputs, *ours.outputs), (*theirs.inputs, *theirs.outputs), strict=True
        ):
            assert mine.id == str(other.id)
            assert [axis.name for axis in mine.axes] == [str(axis.id) for axis in other.axes]
            steps = getattr(other, "preprocessing", None) or getattr(other, "postprocessing", [])
            assert [s.id for s in (*mine.preprocessing, *mine.postprocessing)] == [
                str(s.id) for s in steps
            ]


def test_steps_after_are_those_of_numpy() -> None:
    from stitchsafe.networks import OutputConfig
    from stitchsafe.networks._pointwise import apply_after

    field = np.random.default_rng(0).normal(size=(1, 2, 7, 9)).astype(np.float32)
    powers = np.exp(field.astype(float))
    soft = powers / powers.sum(axis=1, keepdims=True)
    column = np.array([2.0, -1.0]).reshape(2, 1, 1)
    cases: list[tuple[list[dict[str, Any]], np.ndarray]] = [
        ([{"kind": "softmax"}], soft),
        ([{"kind": "linear", "gain": [2, -1], "offset": [0.5]}], field * column + 0.5),
        ([{"kind": "clip", "low": -0.5}], field.clip(-0.5)),
        ([{"kind": "softmax"}, {"kind": "binarize", "threshold": [0.4]}], soft > 0.4),
        ([{"kind": "linear", "gain": [9]}, {"kind": "integer", "dtype": "int8"}],
         (field * 9).astype("int8")),
    ]  # fmt: skip
    for steps, expected in cases:
        config = OutputConfig(name="a", channels=2, postprocessing=steps)
        found = apply_after(config.postprocessing, field)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)
    for bad in ("zscore", "percentiles", "clip_percentiles"):
        with pytest.raises(ValueError, match="postprocessing"):
            OutputConfig(name="a", channels=2, postprocessing=[{"kind": bad}])


def test_a_state_dict_stands_in_for_absent_onnx_aloud_and_with_trust(tmp_path: Path) -> None:
    content = package()
    content["weights"]["onnx"] = {"source": "absent.onnx"}
    folder = small_package(tmp_path / "small", **content)
    with pytest.raises(ModelError, match=r"the ONNX weights, absent\.onnx, is absent"):
        load_network(folder)
    network = load_network(folder, trust=True)
    assert isinstance(network, TorchNetwork)
    assert network.config is not None
    assert "its state dict is taken" in network.config.notes[0]


def test_an_onnx_file_of_other_channels_than_described_is_refused(
    packages: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "package"
    shutil.copytree(packages / "bioimageio_unet2d_nuclei_broad", folder)
    content = yaml.safe_load((folder / "bioimageio.yaml").read_text())
    content["outputs"][0]["axes"][1]["channel_names"] = ["a", "b"]
    (folder / "bioimageio.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ModelError, match=r"outputs of \[2\] channels"):
        load_network(folder)
