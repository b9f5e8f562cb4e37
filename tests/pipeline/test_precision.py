"""Precisions: stitched equals whole in each to its rounding, and what overflows is named."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from stitching import field_maker, relative_error, stitched
from stores import smooth_volume, tiny_model
from torch import nn

import stitchsafe
from stitchsafe.errors import InputError, InterruptedRunError, NonFiniteError, PlanError
from stitchsafe.networks import ModelConfig, TorchNetwork
from stitchsafe.nn import UNet
from stitchsafe.precision import PRECISIONS, precision_named


@functools.cache
def network_of(ndim: int, padding: str) -> TorchNetwork:
    torch.manual_seed(1)
    module = UNet(ndim=ndim, levels=2, base_channels=4, padding=padding, convs_per_level=2)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
    return TorchNetwork(module)


@pytest.mark.parametrize("precision", list(PRECISIONS))
@pytest.mark.parametrize(("ndim", "padding"), [(2, "same"), (3, "valid")])
def test_stitched_equals_whole_to_the_rounding_of_the_type(precision, ndim, padding) -> None:
    network = network_of(ndim, padding)
    shape, tile = ((50, 70), (12, 20)) if ndim == 2 else ((14, 20, 22), (8, 12, 12))
    kept = PRECISIONS[precision].kept
    volume = np.random.default_rng(0).normal(size=(1, *shape)).astype(kept)
    maker = field_maker(network, volume, tile, precision=precision)
    whole = maker.whole()["output"]
    assert whole.dtype == kept
    assert relative_error(stitched(maker), whole) <= PRECISIONS[precision].tolerance
    wide = field_maker(network, volume.astype("float64"), tile, precision="float64").whole()
    # It is really computed in that type: as far from the truth as its rounding, and no less.
    error = relative_error(whole.astype("float64"), wide["output"])
    low, high = {
        "float64": (0.0, 1e-14), "float32": (1e-8, 1e-5), "float16": (1e-4, 1e-2),
        "bfloat16": (1e-3, 1e-1),
    }[precision]  # fmt: skip
    assert low <= error <= high


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_verify_knows_what_rounding_allows(tmp_path: Path, name: str) -> None:
    tiny_model(tmp_path / "tiny", ndim=2, window=(32, 32), tile=(16, 16))
    np.save(tmp_path / "volume.npy", smooth_volume(70, 80))
    made = stitchsafe.predict(
        tmp_path / "volume.npy", tmp_path / "tiny", tmp_path / "out.zarr", precision=name,
        save=("labels", "fields"), threads=1, max_memory=10**10,
    )  # fmt: skip
    taken = precision_named(name)
    assert taken is not None
    assert made.plan.recipe.precision == taken.name
    found = stitchsafe.verify(tmp_path / "out.zarr")
    assert found.ok, found.describe()
    assert found.tolerance is not None
    assert 0.5 <= found.tolerance / taken.tolerance <= 5  # it is relative to the largest value
    # Left open on resume, it is what it was.
    again = stitchsafe.predict(
        tmp_path / "volume.npy", tmp_path / "tiny", tmp_path / "out.zarr",
        save=("labels", "fields"), threads=1, max_memory=10**10,
    )  # fmt: skip
    assert again.progress.blocks_resumed == again.progress.blocks_total


def test_half_types_differ_in_the_fields_that_they_give() -> None:
    network = TorchNetwork(UNet(ndim=2, levels=1, base_channels=4))
    volume = np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)
    fields = [
        next(iter(stitchsafe.predict(volume, network, save="fields", precision=p).fields.values()))
        for p in ("auto", "fp32", "float32", "bf16", "bfloat16")
    ]
    assert np.array_equal(fields[0], fields[1])
    assert np.array_equal(fields[0], fields[2])
    assert np.array_equal(fields[3], fields[4])
    assert not np.array_equal(fields[0], fields[3])


def test_weights_of_a_half_type_are_computed_in_float32_unless_asked_otherwise() -> None:
    network = TorchNetwork(UNet(ndim=2, levels=1, base_channels=4).bfloat16())
    volume = np.zeros((40, 40), np.float32)
    assert stitchsafe.plan(volume, network, save="fields").recipe.precision == "float32"
    asked = stitchsafe.plan(volume, network, save="fields", precision="bf16")
    assert asked.recipe.precision == "bfloat16"


class Growing(nn.Module):
    """Sums that leave the range of float16 for a bright spot, and hide it behind a ReLU."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        nn.init.constant_(self.conv.weight, -gain)
        self.last = nn.Conv2d(2, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.conv(x)))


def test_overflow_names_the_block() -> None:
    volume = np.ones((300, 600), np.float32)
    volume[40, 405] = 1000.0
    options = {
        "save": "fields", "normalize": "none", "tile_shape": (64, 64), "threads": 1,
        "max_memory": 10**10,
    }  # fmt: skip
    with pytest.raises(InterruptedRunError, match=r"the range of float16.*--precision bf16") as no:
        stitchsafe.predict(volume, Growing(200.0), precision="fp16", **options)
    assert "could not do 1 of its blocks (block 0:256,256:512: " in str(no.value)
    assert "tile at 0:64,384:448" in str(no.value)
    assert stitchsafe.predict(volume, Growing(200.0), precision="bf16", **options).fields
    with pytest.raises(InterruptedRunError, match=r"the range of float32.*--precision fp64"):
        stitchsafe.predict(1e3 * volume, _Steep(), precision="fp32", **options)


class _Steep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        nn.init.constant_(self.conv.weight, 1e36)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


@pytest.mark.parametrize("activation", ["none", "sigmoid", "softmax"])
def test_a_probability_of_something_infinite_is_none(activation: str) -> None:
    config = ModelConfig.model_validate(
        {
            "format": "stitchsafe-model/1", "name": "steep", "input": {"axes": "yx"},
            "network": {"name": "unet", "arguments": {"ndim": 2, "levels": 1}},
            "outputs": [{"name": "output", "channels": 1, "activation": activation}],
        }
    )  # fmt: skip
    network = TorchNetwork(_Steep(), config=config)
    maker = field_maker(network, np.full((1, 8, 8), 1e5), (4, 4), precision="float32")
    with pytest.raises(NonFiniteError, match="the range of float32"):
        maker.whole()


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"precision": "int8"}, InputError, "precision cannot be 'int8'; it is one of auto, fp64"),
        ({"device": "tpu"}, InputError, "device cannot be 'tpu'; it is one of auto, cpu, cuda"),
        ({"max_device_memory": 10**9}, InputError, "this run is on the processor; leave it out"),
        ({"max_device_memory": 0}, InputError, "max_device_memory cannot be 0"),
    ],
)
def test_what_cannot_be_is_refused(options, kind, message) -> None:
    volume = np.zeros((20, 20), np.float32)
    with pytest.raises(kind, match=message):
        stitchsafe.plan(
            volume, UNet(ndim=2, levels=1), save="fields", **{"device": "cpu", **options}
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    np.save(tmp_path / "volume.npy", smooth_volume(40, 40))
    tiny_model(tmp_path / "tiny", ndim=2, window=(32, 32))
    for device in ("cuda", "cuda:0,1"):
        with pytest.raises(InputError, match=f"no CUDA device: {device} is asked for"):
            stitchsafe.predict(
                tmp_path / "volume.npy", tmp_path / "tiny", tmp_path / "out.zarr", device=device
            )
    assert not (tmp_path / "out.zarr").exists()


def test_a_tensor_that_convolutions_cannot_count_is_refused() -> None:
    module = UNet(ndim=3, levels=1, base_channels=16, growth=1)
    volume = np.broadcast_to(np.uint8(0), (1000, 1000, 1000))
    options = {"save": "fields", "max_memory": 10**13}
    with pytest.raises(PlanError, match=r"1000 x 1000 x 1000 a tensor .* has \d{11} elements"):
        stitchsafe.plan(volume, module, tile_shape=(1000, 1000, 1000), **options)
