"""Classifiers with any sampling: the same answer for every circular shift, or not."""

from __future__ import annotations

import itertools
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from stitchsafe.nn import APS, LPD, Classifier, ResNet, parameter_groups, resnet18
from stitchsafe.nn._resnet import _Block
from stitchsafe.nn._sampling import Downsampling

torch.set_num_threads(1)

RESIDUAL = [name for name in get_args(Downsampling) if name != "soft-cluster"]


def classifier(down: str, **more: Any) -> nn.Module:
    torch.manual_seed(0)
    given = {"ndim": 2, "classes": 5, "widths": (4, 6, 8), "padding": "circular", **more}
    return Classifier(downsampling=down, **given).double()  # type: ignore[arg-type]


def small_resnet18(down: str, stem: str = "cifar", **more: Any) -> nn.Module:
    torch.manual_seed(0)
    given = {"in_channels": 1, "width": 4, "padding": "circular", "stem": stem, **more}
    network = resnet18(5, downsampling=down, **given).double()
    for layer in network.modules():  # as after training: norms that do something
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return network


def moved(size: int, ndim: int = 2, step: int = 1) -> Tensor:
    """One image of strong contrast under all circular shifts, or under each `step`-th."""
    torch.manual_seed(3)
    image = 3 * torch.randn(1, *(size,) * ndim, dtype=torch.float64)
    places = itertools.product(range(0, size, step), repeat=ndim)
    return torch.stack([image.roll(by, tuple(range(1, ndim + 1))) for by in places])


def same(network: nn.Module, images: Tensor) -> int:
    """For how many of these the answer is that for the first."""
    with torch.no_grad():
        logits = network.eval()(images)
    assert logits.std(1).min() > 1e-3
    return int(((logits - logits[:1]).abs().amax(1) < 1e-12).sum())


@pytest.mark.parametrize("make", [classifier, small_resnet18])
@pytest.mark.parametrize(
    ("down", "options"), [("lps", {}), ("lps", {"low_pass": 3}), ("aps", {"max_pool": 2})]
)
def test_every_circular_shift_has_the_same_answer(make: Any, down: str, options: Any) -> None:
    assert same(make(down, downsampling_options=options), moved(16)) == 256


@pytest.mark.parametrize(("make", "period"), [(classifier, 4), (small_resnet18, 8)])
@pytest.mark.parametrize("down", ["max", "strided", "blur"])
def test_of_their_twins_only_those_by_multiples_of_the_period(
    make: Any, period: int, down: str
) -> None:
    assert same(make(down), moved(16)) == (16 // period) ** 2


def test_the_usual_stem_and_three_axes_follow_too() -> None:
    assert same(small_resnet18("lps", "imagenet"), moved(32, step=3)) == 121
    assert same(classifier("lps", ndim=3), moved(8, ndim=3)) == 512
    assert same(small_resnet18("lps", ndim=3), moved(8, ndim=3, step=3)) == 27


def test_resnet18_is_the_known_one() -> None:
    with torch.device("meta"):
        usual = resnet18(1000)
        assert sum(each.numel() for each in usual.parameters()) == 11_689_512
        logits = usual(torch.empty(2, 3, 224, 224))
    assert logits.shape == (2, 1000)
    names = set(usual.state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer2.0.downsample.1.bias", "fc.bias"} <= names
    # The same weights fit whatever the sampling, which only adds its own.
    with torch.device("meta"):
        for down in RESIDUAL:
            assert names <= set(resnet18(1000, downsampling=down).state_dict())


@pytest.mark.parametrize("down", RESIDUAL)
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_each_sampling_halves_and_learns(down: str, stem: str) -> None:
    network = small_resnet18(down, stem, in_channels=3).train()
    seen: list[torch.Size] = []
    network.get_submodule("layer4").register_forward_hook(
        lambda _, __, made: seen.append(made.shape)
    )
    network(torch.rand(2, 3, 64, 64, dtype=torch.float64)).square().mean().backward()
    size = 8 if stem == "cifar" else 2
    assert seen == [(2, 32, size, size)]
    for name, each in network.named_parameters():
        assert each.grad is not None, name


@pytest.mark.parametrize(("down", "kind"), [("lps", LPD), ("aps", APS)])
def test_a_shortcut_takes_the_selection_of_its_block(down: Any, kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    block = _Block(2, 3, 3, "circular", down, None).eval()
    assert sum(isinstance(layer, kind) for layer in block.modules()) == 1
    # With a residual branch of zeros what comes out is the shortcut: x at the branch's phase.
    nn.init.zeros_(block.bn2.weight)
    conv = block.get_submodule("downsample.0")
    with torch.no_grad():
        conv.weight.copy_(torch.eye(3)[..., None, None])
        phases = set()
        for _ in range(12):
            x = torch.rand(1, 3, 8, 8)
            chosen = block.pool(torch.relu(block.bn1(block.conv1(x))))[1].phases
            row, column = divmod(int(chosen), 2)
            torch.testing.assert_close(block(x), x[..., row::2, column::2], rtol=1e-4, atol=1e-4)
            phases.add(int(chosen))
    assert len(phases) > 1


def test_only_what_selects_is_kept_from_decay() -> None:
    groups = parameter_groups(small_resnet18("lps"), weight_decay=1e-4)
    assert len(groups[1]["params"]) == 3 * 4
    assert len(parameter_groups(small_resnet18("max"), weight_decay=1e-4)[1]["params"]) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ndim": 4}, "2 or 3 spatial axes, not 4"),
        ({"classes": 0}, "classes is 0; give at least 1"),
        ({"downsampling": "median"}, "downsampling 'median' is unknown"),
        ({"padding": "reflect"}, "padding 'reflect' is unknown"),
        ({"downsampling": "lps", "downsampling_options": {"tau": 1}}, "'lps' has no option 'tau'"),
        ({"downsampling": "strided", "downsampling_options": {"bias": 1}}, "no option 'bias'"),
    ],
)
@pytest.mark.parametrize("make", [Classifier, ResNet])
def test_what_makes_no_sense_is_refused(make: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(**{"ndim": 2, "classes": 3, **options})


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (Classifier, {"widths": ()}, "the smallest of widths is 0"),
        (Classifier, {"depth": 0}, "depth is 0"),
        (ResNet, {"blocks": (2, 0)}, "the smallest of blocks is 0"),
        (ResNet, {"padding": "valid"}, "choose 'same' or 'circular'"),
        (ResNet, {"stem": "none"}, "stem 'none' is unknown; it is one of cifar, imagenet"),
        (ResNet, {"downsampling": "soft-cluster"}, "take HCBackbone with encoder 'resnet'"),
    ],
)
def test_what_one_of_them_cannot_be_is_refused(make: Any, options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(**{"ndim": 2, "classes": 3, **options})
