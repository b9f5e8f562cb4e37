"""One U-Net with any sampling: what goes together, what check says, and that tiles keep to it."""

from __future__ import annotations

import functools
import itertools
from typing import Any, get_args

import numpy as np
import pytest
import torch
from stitching import field_maker, own_pass, relative_error, stitched_fields
from torch import nn

from stitchsafe.geometry import NetworkGeometry, analyse_module
from stitchsafe.networks import TorchNetwork
from stitchsafe.nn import Classifier, ResNet, UNet, pinned
from stitchsafe.nn._sampling import Downsampling, Padding, Upsampling

torch.set_num_threads(1)

PAIRS = (
    ("max", "learnt"), ("avg", "nearest"), ("strided", "learnt"), ("blur", "learnt"),
    ("ppool", "nearest"), ("lps", "lpu"), ("aps", "lpu"), ("soft-cluster", "decode"),
)  # fmt: skip
WHOLE_INPUT = ("lps", "aps")


def unet(down: str, up: str, *, padding: str = "valid", ndim: int = 2, **more: Any) -> UNet:
    torch.manual_seed(1)
    given = {"levels": 2, "base_channels": 3, "convs_per_level": 1, "heads": {"embedding": 2}}
    made = UNet(ndim=ndim, padding=padding, downsampling=down, upsampling=up, **{**given, **more})  # type: ignore[arg-type]
    return made.double().eval()


@functools.cache
def geometry_of(down: str, up: str, padding: str = "valid") -> NetworkGeometry:
    """Of two levels in two dimensions."""
    return analyse_module(unet(down, up, padding=padding), ndim=2, channels=1)


def test_each_name_stands_in_a_pair() -> None:
    assert {down for down, _ in PAIRS} == set(get_args(Downsampling))
    assert {up for _, up in PAIRS} == set(get_args(Upsampling))


@pytest.mark.parametrize(
    ("down", "up", "padding"),
    [
        (*pair, padding)
        for pair in PAIRS
        for padding in get_args(Padding)
        if padding == "valid" or pair[0] in ("blur", "aps", "soft-cluster")
    ],
)
def test_check_gives_each_its_class(down: str, up: str, padding: str) -> None:
    found = geometry_of(down, up, padding)
    if padding == "circular":
        assert found.verdict == "unsafe"
        return
    if down in WHOLE_INPUT:
        # Scores that pad are those of another network in a tile than in the whole.
        assert found.verdict == "safe with consensus"
        assert len(found.consensus) == 2
        assert all("phases" in what for _, what in found.consensus)
    else:
        assert found.verdict == "safe"
        assert not found.consensus
    assert [axis.period for axis in found.axes] == [4, 4]
    assert {axis.padded for axis in found.axes} == {padding == "same"}


@pytest.mark.parametrize(
    ("down", "up", "padding", "ndim"),
    [
        (*pair, padding, ndim)
        for pair in PAIRS if pair[0] not in WHOLE_INPUT
        for padding, ndim in (("valid", 2), ("same", 2), ("valid", 3))
        if (padding, ndim) == ("valid", 2) or pair[0] in ("blur", "soft-cluster")
    ],
)  # fmt: skip
def test_stitched_equals_whole(down: str, up: str, padding: str, ndim: int) -> None:
    network = TorchNetwork(unet(down, up, padding=padding, ndim=ndim, levels=2 if ndim == 2 else 1))
    if ndim == 2:
        vars(network)["geometry"] = geometry_of(down, up, padding)
    shape = (24, 28) if ndim == 2 else (8, 10, 8)
    data = np.random.default_rng(0).random((1, *shape))
    maker = field_maker(network, data, (8, 4) if ndim == 2 else (4, 4, 4))
    (found,) = stitched_fields(maker).values()
    (whole,) = own_pass(maker)[0].values()
    assert relative_error(found, whole) < 1e-12


@pytest.mark.parametrize(
    ("down", "options"),
    [
        ("lps", {}), ("aps", {}), ("lps", {"max_pool": 2}), ("aps", {"low_pass": 2}),
        ("aps", {"max_pool": 2, "low_pass": 4}),
    ],
)  # fmt: skip
def test_tiles_equal_the_whole_where_phases_are_given(down: str, options: dict[str, int]) -> None:
    """The same physical phases for all: in a tile that begins at odd places, others of its own."""
    network = unet(down, "lpu", downsampling_options=options)
    size = next(n for n in range(64, 68) if accepts(network, n))
    image = torch.rand(1, 1, size, size, dtype=torch.float64)
    whole = network(image, pinned([2, 1], ndim=2))
    cut = size - 4
    part = network(image[:, :, 4 : 4 + cut, :cut], pinned([2, 1], ndim=2, origin=(4, 0)))
    torch.testing.assert_close(part, whole[:, :, 4:, :-4], rtol=0, atol=1e-12)
    own = network(image, pinned([0, 3], ndim=2))
    assert (own - whole).abs().max() > 1e-3


def accepts(network: nn.Module, size: int) -> bool:
    try:
        network(torch.zeros(1, 1, size, size, dtype=torch.float64), pinned([0, 0], ndim=2))
    except ValueError:
        return False
    return True


def test_a_maximum_that_takes_an_element_asks_for_odd_sizes() -> None:
    """In place of max-pooling by 2, in a network that pads nowhere."""
    network = unet("lps", "lpu", levels=1, downsampling_options={"max_pool": 2})
    found = analyse_module(network, ndim=2, channels=1)
    assert found.verdict == "safe with consensus"
    assert [(axis.period, axis.input_min % 2) for axis in found.axes] == [(2, 1)] * 2
    with pytest.raises(ValueError, match=r"behind filters that take 1 of them.* input by 1 times"):
        network(torch.rand(1, 1, 30, 30, dtype=torch.float64))


def test_an_lps_network_follows_every_circular_shift_and_its_twin_few() -> None:
    def errors(network: UNet, size: int) -> list[float]:
        image = torch.rand(1, 1, size, size, dtype=torch.float64)
        straight = network(image)
        return [
            float((network(image.roll(by, (2, 3))) - straight.roll(by, (2, 3))).abs().max())
            for by in itertools.product(range(size), repeat=2)
        ]

    with torch.no_grad():
        learnt = errors(unet("lps", "lpu", padding="circular", levels=3), 16)
        assert max(learnt) < 1e-12
        assert len(learnt) == 256
        twin = errors(unet("max", "nearest", padding="circular", levels=3), 32)
        assert sum(error < 1e-12 for error in twin) == 16


@pytest.mark.parametrize(("down", "up"), [("lps", "lpu"), ("soft-cluster", "decode"),
                                          ("ppool", "learnt")])  # fmt: skip
@pytest.mark.parametrize("kind", ["unet", "classifier", "resnet"])
def test_gradients_of_networks_are_right(kind: str, down: Any, up: Any) -> None:
    torch.manual_seed(0)
    network: nn.Module
    if kind == "unet":
        network = unet(down, up, padding="circular", levels=1)
    elif kind == "classifier":
        down = "blur" if down == "soft-cluster" else down
        network = Classifier(ndim=2, classes=2, widths=(2, 3), downsampling=down)
    else:
        down = "strided" if down == "soft-cluster" else down
        network = ResNet(2, in_channels=1, blocks=(1, 1), width=2, downsampling=down, stem="cifar")
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in network.double().eval().named_parameters()]

    def passed(x: torch.Tensor, *weights: torch.Tensor) -> Any:
        given = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(network, given, (x,))

    weights = [each.detach().requires_grad_() for each in network.parameters()]
    assert torch.autograd.gradcheck(passed, (x, *weights), fast_mode=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"downsampling": "lps", "upsampling": "learnt"}, "take upsampling 'lpu'"),
        ({"downsampling": "soft-cluster"}, "take upsampling 'decode'"),
        ({"downsampling": "max", "upsampling": "lpu"}, "take downsampling 'lps' or 'aps', or"),
        ({"downsampling": "max", "upsampling": "decode"}, "takes an assignment"),
        ({"downsampling": "aps", "upsampling": "decode"}, "take upsampling 'lpu'"),
        ({"downsampling": "median"}, "downsampling 'median' is unknown; it is one of max, avg"),
        ({"upsampling": "fixed"}, "upsampling 'fixed' is unknown; it is one of learnt, nearest"),
        ({"padding": "reflect"}, "padding 'reflect' is unknown"),
        ({"downsampling": "blur", "factors": 3}, "halves every axis, and the factors are"),
        ({"downsampling": "lps", "upsampling": "lpu", "factors": (1, 2)}, "halves every axis"),
        (
            {"downsampling": "lps", "upsampling": "lpu", "downsampling_options": {"lowpass": 3}},
            "the sampling 'lps' has no option 'lowpass'; did you mean 'low_pass'?",
        ),
        ({"downsampling_options": {"low_pass": 3}}, "'max' has no option 'low_pass'; it has none"),
        ({"upsampling_options": {"mode": "linear"}}, "'learnt' has no option 'mode'"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"ndim": 2, "levels": 2, **options}
    if given.get("factors") == (1, 2):
        given["factors"] = [[1, 2], [2, 2]]
    with pytest.raises(ValueError, match=r".*" + words.replace("?", r"\?").replace("(", r"\(")):
        UNet(**given)


def test_selections_are_for_networks_that_take_them() -> None:
    image = torch.rand(1, 1, 44, 44, dtype=torch.float64)
    with pytest.raises(ValueError, match="3 selections are given to a network of 2 levels"):
        unet("lps", "lpu")(image, pinned([0, 0, 0], ndim=2))
    with pytest.raises(ValueError, match="downsampling 'max'; give one per level, and only to"):
        unet("max", "learnt")(image, pinned([0, 0], ndim=2))


@pytest.mark.parametrize(("down", "up"), PAIRS)
def test_a_configuration_rebuilds_its_network(down: str, up: str) -> None:
    options = {
        "lps": {"low_pass": 3, "in_evaluation": "softmax"}, "blur": {"taps": 5, "max_pool": 2},
        "ppool": {"alpha": 2.0, "per_channel": True}, "aps": {"norm": 1.0},
        "soft-cluster": {"features": 8},
    }  # fmt: skip
    more = {"lpu": {"low_pass": 3}, "decode": {"hard": True}}
    one = unet(
        down, up, padding="circular",
        downsampling_options=options.get(down), upsampling_options=more.get(up),
    )  # fmt: skip
    other = UNet(**one.configuration).double().eval()
    assert other.configuration == one.configuration
    other.load_state_dict(one.state_dict())
    image = torch.rand(1, 1, 16, 16, dtype=torch.float64)
    assert torch.equal(one(image), other(image))
    # The options arrive: without them it is another network.
    if down in options:
        plain = unet(down, up, padding="circular")
        there = plain.state_dict()
        alike = {k: v for k, v in one.state_dict().items() if v.shape == there[k].shape}
        plain.load_state_dict(alike, strict=False)
        assert not torch.equal(plain(image), one(image))


def test_training_reaches_every_parameter() -> None:
    for down, up in PAIRS:
        network = unet(down, up, padding="circular").train()
        image = torch.rand(2, 1, 16, 16, dtype=torch.float64)
        network(image).square().mean().backward()
        for name, each in network.named_parameters():
            if "bias" not in name:
                assert each.grad is not None, (down, name)
                assert each.grad.abs().max() > 0, (down, name)
