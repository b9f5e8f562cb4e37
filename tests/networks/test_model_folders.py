from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from stores import tiny_model

from stitchsafe.errors import ModelError
from stitchsafe.networks import (
    ModelConfig,
    Runtime,
    TorchNetwork,
    _folder,
    bundled_models,
    load_network,
    save_folder,
)
from stitchsafe.nn import UNet

CONFIG = {
    "format": "stitchsafe-model/1",
    "name": "small",
    "network": {
        "name": "unet",
        "arguments": {
            "ndim": 2, "levels": 1, "base_channels": 2, "heads": {"embedding": 2, "foreground": 1},
        },
    },
    "input": {"axes": "yx", "channels": 1},
    "outputs": [
        {"name": "embedding", "channels": 2},
        {"name": "foreground", "channels": 1, "activation": "sigmoid"},
    ],
    "labels": {"from": "embeddings", "bandwidth": 1.5, "window": [32, 32]},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    module = UNet(**CONFIG["network"]["arguments"])
    save_folder(tmp_path / "small", module, ModelConfig.model_validate(CONFIG))
    return tmp_path / "small"


def edit(folder: Path, **changes) -> None:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def test_a_folder_gives_back_the_network_that_was_saved(folder):
    torch.manual_seed(0)
    module = UNet(**CONFIG["network"]["arguments"]).eval()
    network = load_network(folder)
    x = np.random.default_rng(0).normal(size=(1, 1, 24, 24)).astype(np.float32)
    embedding, foreground = network.run(x)
    with torch.no_grad():
        expected = module(torch.from_numpy(x))
    np.testing.assert_allclose(embedding, expected[0].numpy(), atol=1e-6)
    np.testing.assert_allclose(foreground, expected[1].sigmoid().numpy(), atol=1e-6)
    assert [(o.name, o.channels) for o in network.outputs] == [("embedding", 2), ("foreground", 1)]
    assert network.config is not None
    assert network.config.labels is not None
    assert network.config.labels.source == "embeddings"


def test_the_fingerprint_follows_weights_and_activations(folder, tmp_path):
    first = load_network(folder).fingerprint
    assert load_network(folder).fingerprint == first
    torch.manual_seed(1)
    other = tmp_path / "other"
    save_folder(other, UNet(**CONFIG["network"]["arguments"]), ModelConfig.model_validate(CONFIG))
    assert load_network(other).fingerprint != first
    edit(
        folder,
        outputs=[{"name": "embedding", "channels": 2}, {"name": "foreground", "channels": 1}],
    )
    assert load_network(folder).fingerprint != first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"licence": "x"}, r"unknown key 'licence'; did you mean 'license'\?"),
        ({"format": "other"}, "format: Input should be"),
        (
            {"network": {"name": "unet", "arguments": {"ndim": 7, "levels": 1}}},
            "does not fit 'unet'",
        ),
        ({"network": {"name": "unet", "arguments": {"ndmi": 2}}}, "does not fit 'unet'"),
        (
            {"network": {"name": "os.system"}},
            "network.name: the network 'os.system' is not known",
        ),
        ({"network": {"name": "os:system"}}, "code that runs .* add --trust-model"),
        (
            {"network": {"name": "unet", "arguments": {"ndim": 2, "levels": 2}}},
            "does not hold weights for its config.yaml",
        ),
    ],
)
def test_a_wrong_configuration_is_one_clear_line(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(ModelError, match=message) as caught:
        load_network(folder)
    assert "\n" not in str(caught.value)


def test_yaml_tags_run_nothing(folder, tmp_path):
    marker = tmp_path / "ran"
    text = f"format: !!python/object/apply:os.mkdir ['{marker}']\n"
    (folder / "config.yaml").write_text(text)
    with pytest.raises(ModelError, match="cannot be read as YAML"):
        load_network(folder)
    assert not marker.exists()


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.mkdir, (self.marker,))


@pytest.mark.parametrize("name", ["model.pt", "model.pkl", "model", "model.safetensors"])
def test_a_pickle_is_refused_unread(tmp_path, name):
    marker = tmp_path / "ran"
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(ModelError, match="is a pickle, which runs code when it is loaded"):
        load_network(tmp_path / name)
    assert not marker.exists()


def test_a_zipped_pickle_is_refused_unread(tmp_path):
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(ModelError, match="is a pickle"):
        load_network(tmp_path / "archive")
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_in_a_folder_are_refused_unread(folder, tmp_path):
    (folder / "weights.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(ModelError, match="does not hold weights"):
        load_network(folder)
    assert not (tmp_path / "ran").exists()


def test_what_is_no_model_is_named(tmp_path, folder):
    with pytest.raises(ModelError, match=r"no model 'disks-2'.*did you mean 'disks-2d'\?"):
        load_network("disks-2")
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(ModelError, match=r"has no config\.yaml"):
        load_network(folder)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ModelError, match="a model is a folder"):
        load_network(tmp_path / "a.txt")
    with pytest.raises(ModelError, match=r"there is no model '\.\./small'"):
        load_network("../small")


def test_a_callers_module_keeps_mode_layout_and_weights():
    module = UNet(ndim=2, levels=1, base_channels=2).train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    network = TorchNetwork(module)
    network.prepare(Runtime(precision="float64"))
    network.run(np.zeros((1, 1, 24, 24), np.float64))
    assert module.training
    assert next(module.parameters()).requires_grad
    for key, value in module.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[key])


def test_the_geometry_is_the_same_within_inference_mode():
    module = UNet(ndim=2, levels=1, base_channels=2)
    with torch.inference_mode():
        inside = TorchNetwork(module).geometry
    assert inside == TorchNetwork(module).geometry


def test_a_bare_module_is_read_by_its_first_convolution():
    network = TorchNetwork(torch.nn.Sequential(torch.nn.Conv3d(4, 2, 3)))
    assert (network.ndim, network.channels) == (3, 4)
    assert [(o.name, o.channels) for o in network.outputs] == [("output", 2)]
    with pytest.raises(ModelError, match="holds no 2-D or 3-D convolution"):
        TorchNetwork(torch.nn.ReLU())


def test_every_bundled_model_loads_and_its_geometry_file_is_what_a_trace_gives(repository):
    import json

    models = bundled_models()
    assert set(models) >= {"disks-2d", "neurites-em", "nuclei-2d"}
    for name in models:
        network = load_network(name)
        stored = json.loads((repository / "models" / name / "geometry.json").read_text())
        assert json.loads(json.dumps(network.geometry.to_json())) == stored
        assert network.geometry.verdict == "safe"
        assert (repository / "models" / name / "card.md").is_file()


def test_a_bare_modules_input_is_found_whatever_the_order_of_its_parts():
    class HeadFirst(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Conv2d(6, 1, 1)
            self.body = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(2, 6, 3))

        def forward(self, x):
            return {"score": self.head(self.body(x))}

    network = TorchNetwork(HeadFirst())
    assert (network.ndim, network.channels) == (2, 2)
    (score,) = network.run(np.zeros((1, 2, 9, 9), np.float32))
    assert score.shape == (1, 1, 7, 7)


def test_networks_that_differ_only_in_their_code_differ_in_fingerprint():
    class Activated(torch.nn.Module):
        def __init__(self, function) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.function = torch.nn.Conv2d(1, 1, 3), function

        def forward(self, x):
            return self.function(self.conv(x))

    functions = [torch.relu, torch.sigmoid, lambda x: x + 1, lambda x: x + 2]
    assert len({TorchNetwork(Activated(f)).fingerprint for f in functions}) == 4


class Several(torch.nn.Module):
    """Two inputs; outputs channels last, without channels, and as they should be."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = torch.nn.Conv2d(1, 3, 3), torch.nn.Conv2d(2, 3, 3)

    def forward(self, a, b):
        both = self.left(a) + self.right(b)
        return {"last": both.permute(0, 3, 2, 1), "flat": both[:, 0], "plain": both}


def test_several_inputs_are_consecutive_channels_and_outputs_come_channels_first():
    module = Several()
    with pytest.raises(ModelError, match=r"takes 2 inputs \(a, b\)"):
        TorchNetwork(module)
    network = TorchNetwork(module, ndim=2, channels=(1, 2))
    assert network.channels == 3
    assert [(o.name, o.channels) for o in network.outputs] == [
        ("last", 3), ("flat", 1), ("plain", 3),
    ]  # fmt: skip
    batch = np.random.default_rng(0).random((1, 3, 9, 12)).astype(np.float32)
    last, flat, plain = network.run(batch)
    with torch.no_grad():
        a, b = torch.from_numpy(batch).split((1, 2), 1)
        expected = (module.left(a) + module.right(b)).numpy()
    np.testing.assert_array_equal(plain.shape, (1, 3, 7, 10))
    np.testing.assert_allclose(plain, expected, atol=1e-6)
    np.testing.assert_array_equal(last, plain)
    np.testing.assert_array_equal(flat, plain[:, :1])


def test_what_a_process_has_traced_of_a_structure_serves_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever their weights; and of each size by itself."""
    monkeypatch.setattr(_folder, "_TRACED", {})
    monkeypatch.setattr(_folder, "_MOST", 2)
    one, other, wider = (
        load_network(tiny_model(tmp_path / name, ndim=2, **more))
        for name, more in (("one", {}), ("other", {"seed": 1}), ("wider", {"base_channels": 3}))
    )
    least = one.geometry.axes[0].input_min
    step = one.geometry.axes[0].input_step
    graph = one.trace((least, least))
    assert other.trace([least, least]) is graph
    assert wider.trace((least, least)) != graph
    shapes = [(least + k * step, least) for k in range(4)]
    assert [one.trace(shape).space for shape in shapes] == shapes
    assert len(_folder._TRACED) <= 2
    assert one.trace((least, least)) == graph


def test_modules_that_no_configuration_names_are_each_traced(tmp_path: Path) -> None:
    outputs = [{"name": "embedding", "channels": 4}]
    config = ModelConfig.model_validate({**CONFIG, "network": None, "outputs": outputs})
    for kernel in (3, 9):
        convolution = torch.nn.Conv2d(1, 4, kernel)
        folder = tmp_path / str(kernel)
        save_folder(folder, convolution, config)
        axes = json.loads((folder / "geometry.json").read_text())["axes"]
        assert [axis["context"] for axis in axes] == [[kernel // 2] * 2] * 2
