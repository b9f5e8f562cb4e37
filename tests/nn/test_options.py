"""Options reach what they are meant for: each of these was ignored once, and no test said so."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stitchsafe.nn import (
    APS,
    HCFCN,
    LPD,
    ClosedFormFit,
    HCBackbone,
    LowPassPool,
    PPool2d,
    SoftClusterDown,
    UNet,
    parameter_groups,
    pinned,
    replace_pooling,
)
from stitchsafe.nn._sampling import Site, make_downsampling

torch.set_num_threads(1)

WORDS = {"valid": "valid", "same": "zeros", "circular": "circular"}


@pytest.mark.parametrize("padding", WORDS)
def test_samplings_of_a_u_net_pad_as_it_does(padding):
    filtered = {"downsampling_options": {"low_pass": 3}, "upsampling_options": {"low_pass": 3}}
    given = {"ndim": 2, "levels": 1, "upsampling": "lpu", "padding": padding, **filtered}
    for down in ("lps", "aps"):
        network = UNet(downsampling=down, **given)
        assert network.pool[0].before[0].padding == WORDS[padding]
        assert network.up[0].after.padding == WORDS[padding]
        if down == "lps":
            assert network.pool[0].pick.score.padding == WORDS[padding]


@pytest.mark.parametrize("make", [lambda **more: LPD(2, 2, **more), lambda **more: APS(2, **more)])
def test_the_maximum_goes_before_the_filter(make):
    x = torch.randn(1, 2, 8, 8)
    y, _ = make(max_pool=2, low_pass=3).eval()(x, pinned(0, ndim=2)[0])
    assert torch.equal(y, LowPassPool(3, max_pool=2)(x))


@pytest.mark.parametrize("rule", ["softmax", "gumbel"])
def test_weights_follow_the_temperature(rule):
    torch.manual_seed(0)
    down = LPD(2, 2, in_training=rule, in_evaluation="softmax")
    x, found = 5 * torch.randn(4, 2, 8, 8), []
    for tau in (1.0, 0.1):
        down.tau.fill_(tau)
        torch.manual_seed(1)
        found.append(down(x)[1].weights.log())
        soft = down.eval()(x)[1]
        assert torch.allclose(soft.weights, torch.softmax(soft.scores / tau, 1))
        down.train()
    assert torch.allclose(torch.softmax(10 * found[0], 1).log(), found[1])


def test_selections_are_taught_without_decay_and_ties_averaged_by_default():
    assert {inspect.signature(each).parameters["ties"].default for each in (LPD, APS)} == {
        "average"
    }
    network = UNet(ndim=2, levels=2, downsampling="lps", upsampling="lpu")
    free = {id(p) for p in parameter_groups(network, weight_decay=1e-4)[1]["params"]}
    named = {name for name, p in network.named_parameters() if id(p) in free}
    assert named == {n for n, _ in network.named_parameters() if ".pick.score." in n}
    assert len(named) == 2 * 4


def test_strided_and_per_channel_samplings():
    torch.manual_seed(0)
    site, x = Site(2, 3, 5, (2, 3), "valid"), torch.randn(1, 3, 6, 6)
    strided = make_downsampling("strided", site)
    assert torch.equal(strided(x), F.conv2d(x, *strided[0].parameters(), stride=(2, 3)).relu())
    pool = make_downsampling("ppool", site, {"per_channel": True, "alpha": 2.0})
    assert pool.theta.shape == (3,)
    with torch.no_grad():
        pool.theta[1] = 5
    assert torch.equal(pool(x.abs())[:, ::2], PPool2d((2, 3), alpha=2.0)(x.abs())[:, ::2])
    assert (pool(x.abs()) > PPool2d((2, 3), alpha=2.0)(x.abs()))[:, 1].all()


def test_hidden_layers_of_a_u_net_begin_as_he_says():
    torch.manual_seed(0)
    network = UNet(ndim=2, levels=1, base_channels=32, heads={"one": 64})
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels >= 32:
            head = module is network.heads["one"]
            fan = module.weight[0].numel()
            assert float(module.weight.detach().std()) == pytest.approx(
                ((2 - head) / fan) ** 0.5, rel=0.05
            )
        if isinstance(module, nn.ConvTranspose2d):
            expected = (2 / module.in_channels) ** 0.5
            assert float(module.weight.detach().std()) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("encoder", ["unet", "resnet"])
def test_a_backbone_hands_its_options_to_its_clustering(encoder):
    made = {"widths": (2, 3, 4), "encoder": encoder, "features": 5, "temperature": 0.3}
    backbones = HCBackbone(2, 1, **made), HCFCN(ndim=2, out_channels=2, **made).backbone
    for backbone in backbones:
        for layer in backbone.down:
            assert layer.assignment.pixels.out_channels == 5
            assert layer.assignment.temperature == 0.3


def test_the_linear_maps_have_no_bias_and_the_temperature_divides():
    torch.manual_seed(0)
    layer = SoftClusterDown(2, 3, 4)
    names = {name for name, _ in layer.assignment.named_parameters()}
    assert names == {"pixels.weight", "seeds.weight"}
    assert layer.assignment.pixels.weight.shape == (64, 3, 1, 1)
    x = torch.randn(1, 3, 8, 8)
    _, sharp = layer(x)
    layer.assignment.temperature = 0.7
    _, smooth = layer(x)
    inner = (..., slice(2, -2), slice(2, -2))
    assert torch.allclose(smooth[inner], (sharp[inner].log() / 10).softmax(1), atol=1e-5)


@pytest.mark.parametrize(("ndim", "mode"), [(2, "bilinear"), (3, "trilinear")])
def test_what_is_not_clustered_is_interpolated_linearly(ndim, mode):
    torch.manual_seed(0)
    network = HCFCN(ndim=ndim, out_channels=2, widths=(2, 2, 2), depth=1, clustered=0)
    x = torch.randn(1, 1, *(8,) * ndim)
    coarse = network.head(network.backbone(x)[0])
    assert torch.equal(network(x), F.interpolate(coarse, scale_factor=4, mode=mode))


def batches():
    """Unbalanced classes, as many as make every option of a fit tell."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor([6, 14, 30]))
    images = torch.randn(3, 1, 8, 8, generator=generator)[labels]
    images = images + torch.randn(50, 1, 8, 8, generator=generator)
    order = torch.randperm(50, generator=generator)
    return list(zip(images[order].split(20), labels[order].split(20), strict=True))


def test_replacing_hands_its_options_to_the_fit_and_collects_in_evaluation():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(),
                            nn.AvgPool2d(2), nn.Flatten()).train()  # fmt: skip
    nn.init.uniform_(network[1].running_mean, -1, 1)
    before = network[1].running_mean.clone()
    options = {"alpha": 5.0, "norm": "l1", "centre": "samples", "max_per_class": 10}
    with torch.no_grad():
        network.eval()
        maps = [(network[:3](images), labels) for images, labels in batches()]
        network.train()
    found = replace_pooling(network, "3", batches(), **options)
    expected = ClosedFormFit(components=1, **options).fit_batches(maps).pooling_
    assert np.abs(found[3].pooling.numpy() - expected).max() < 1e-5 * np.abs(expected).max()
    assert torch.equal(found[1].running_mean, before)
    assert found[1].training
    for option, usual in (("alpha", 25.0), ("norm", "l2"), ("centre", "classes"),
                          ("max_per_class", 10_000)):  # fmt: skip
        other = ClosedFormFit(components=1, **{**options, option: usual}).fit_batches(maps)
        assert np.abs(other.pooling_ - expected).max() > 1e-4 * np.abs(expected).max(), option
        for made in (ClosedFormFit, replace_pooling):  # Algorithm 1, and the paper's 10k
            assert inspect.signature(made).parameters[option].default == usual
