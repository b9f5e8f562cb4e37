"""The U-Net against the paper's reference code and its theory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stitchsafe.nn import UNet


def parameters(net: UNet) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("levels", "upsampling", "expected"),
    [(3, "learnt", 481_779), (3, "nearest", 487_043), (4, "learnt", 1_940_851)],
)
def test_parameter_counts_equal_those_of_the_reference_code(levels, upsampling, expected):
    assert parameters(UNet(ndim=2, levels=levels, upsampling=upsampling)) == expected


@pytest.mark.parametrize(("levels", "context"), [(1, 8), (2, 20), (3, 44), (4, 92), (5, 188)])
def test_context_per_side_equals_the_papers(levels, context):
    net = UNet(ndim=2, levels=levels, base_channels=1, growth=1)
    assert net.margin == (context, context)
    size = 2 * context + 2**levels
    size += next(k for k in range(2**levels) if accepts(net, size + k))
    with torch.inference_mode():
        assert net(torch.zeros(1, 1, size, size)).shape[2:] == (size - 2 * context,) * 2


def accepts(net: UNet, size: int) -> bool:
    try:
        with torch.inference_mode():
            net(torch.zeros(1, 1, *(size,) * net.ndim))
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(("levels", "sizes"), [(3, {4, 12, 20}), (4, {4, 20})])
def test_natural_output_sizes_are_four_beyond_the_period(levels, sizes):
    net = UNet(ndim=2, levels=levels, base_channels=1, growth=1)
    margin = net.margin[0]
    natural = {n for n in range(1, 24) if accepts(net, 2 * margin + n)}
    assert natural == sizes


@pytest.mark.parametrize(("ndim", "levels"), [(2, 1), (2, 2), (2, 3), (2, 4), (3, 1), (3, 2)])
@pytest.mark.parametrize("upsampling", ["learnt", "nearest"])
def test_a_constant_input_gives_one_output_per_phase(ndim, levels, upsampling):
    """FACTS: f^(d l) distinct outputs with learnt upsampling, one with fixed."""
    torch.manual_seed(1)
    net = UNet(ndim=ndim, levels=levels, base_channels=6, upsampling=upsampling).double()
    period, margin = 2**levels, net.margin[0]
    size = next(n for n in range(2 * period, 4 * period) if accepts_double(net, 2 * margin + n))
    with torch.inference_mode():
        field = net(torch.ones(1, 1, *(2 * margin + size,) * ndim, dtype=torch.float64))[0]
    points = field.flatten(1).T.numpy()
    distinct = len(np.unique(points.round(9), axis=0))
    assert distinct == (2 ** (ndim * levels) if upsampling == "learnt" else 1)


def accepts_double(net: UNet, size: int) -> bool:
    try:
        with torch.inference_mode():
            net(torch.zeros(1, 1, *(size,) * net.ndim, dtype=torch.float64))
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("upsampling", ["learnt", "nearest"])
@pytest.mark.parametrize(
    ("ndim", "factors", "kernels"),
    [(3, [(1, 2, 2), (2, 2, 2)], 3), (2, [3], 3), (3, 2, [(1, 3, 3), 3, (3, 1, 1)])],
)
def test_shifting_by_the_period_shifts_the_output(ndim, factors, kernels, upsampling):
    torch.manual_seed(0)
    levels = 2 if isinstance(factors, int) else len(factors)
    net = UNet(
        ndim=ndim, levels=levels, factors=factors, kernel_size=kernels, base_channels=3,
        upsampling=upsampling,
    ).double()  # fmt: skip
    shape = valid_shape(net, 2)
    image = torch.randn(1, 1, *(n + p for n, p in zip(shape, net.period, strict=True))).double()
    first = image[(..., *(slice(0, n) for n in shape))]
    second = image[(..., *(slice(p, None) for p in net.period))]
    with torch.inference_mode():
        a, b = net(first), net(second)
    overlap_a = a[(..., *(slice(p, None) for p in net.period))]
    overlap_b = b[(..., *(slice(0, n) for n in overlap_a.shape[2:]))]
    assert torch.allclose(overlap_a, overlap_b, rtol=0, atol=1e-12)
    assert overlap_a.numel() > 0


def valid_shape(net: UNet, periods: int) -> tuple[int, ...]:
    """The first valid size per axis whose output holds so many periods."""
    shape = [2 * m + periods * p for m, p in zip(net.margin, net.period, strict=True)]
    for axis, period in enumerate(net.period):
        for _ in range(period):
            try:
                with torch.inference_mode():
                    net(torch.zeros(1, 1, *shape, dtype=torch.float64))
                return tuple(shape)
            except ValueError as error:
                if not str(error).startswith(f"axis {axis}"):
                    break
                shape[axis] += 1
    return tuple(shape)


def test_same_padding_keeps_the_size():
    net = UNet(ndim=3, levels=1, base_channels=2, padding="same")
    assert net(torch.zeros(1, 1, 6, 4, 8)).shape == (1, 3, 6, 4, 8)
    assert net.margin == (0, 0, 0)


def test_heads_come_in_their_order():
    net = UNet(ndim=2, levels=1, base_channels=4, heads={"foreground": 1, "embedding": 5})
    foreground, embedding = net(torch.zeros(2, 1, 20, 20))
    assert foreground.shape == (2, 1, 4, 4)
    assert embedding.shape == (2, 5, 4, 4)


def test_the_configuration_rebuilds_the_network():
    net = UNet(ndim=3, levels=2, factors=[(1, 2, 2), 2], base_channels=2, growth=1.5,
               heads={"embedding": 4, "foreground": 1}, kernel_size=[3, 3, 1])  # fmt: skip
    twin = UNet(**net.configuration)
    twin.load_state_dict(net.state_dict())
    assert twin.configuration == net.configuration


def test_a_size_that_pooling_would_cut_is_refused():
    net = UNet(ndim=2, levels=2, base_channels=2)
    with pytest.raises(ValueError, match="pools by 2"):
        net(torch.zeros(1, 1, 45, 44))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ndim": 4, "levels": 1}, "2 or 3"),
        ({"ndim": 2, "levels": 2, "factors": [2]}, "needs 2"),
        ({"ndim": 2, "levels": 1, "kernel_size": 2}, "odd"),
        ({"ndim": 3, "levels": 1, "factors": [(2, 2)]}, "one per axis"),
        ({"ndim": 2, "levels": 1, "padding": "reflect"}, "padding"),
        ({"ndim": 2, "levels": 1, "upsampling": "bilinear"}, "upsampling"),
        ({"ndim": 2, "levels": 1, "heads": {}}, "heads"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        UNet(**arguments)


@pytest.mark.parametrize("factors", [[2, 2], [3], [(2, 1)]])
def test_skips_are_cropped_to_the_centre(factors):
    """A network with mirrored kernels gives the mirrored output of a mirrored input."""
    torch.manual_seed(0)
    net = UNet(ndim=2, levels=len(factors), factors=factors, base_channels=3).double()
    twin = UNet(**net.configuration).double()
    twin.load_state_dict(
        {k: v.flip(2, 3) if v.ndim == 4 else v for k, v in net.state_dict().items()}
    )
    image = torch.randn(1, 1, *valid_shape(net, 3), dtype=torch.float64)
    with torch.inference_mode():
        assert torch.allclose(twin(image.flip(2, 3)), net(image).flip(2, 3), atol=1e-12)


def test_learnt_upsampling_ends_in_relu_and_heads_are_linear():
    torch.manual_seed(0)
    net = UNet(ndim=2, levels=1, base_channels=8)
    seen = []
    for part in net.up:
        part.register_forward_hook(lambda module, inputs, output: seen.append(output))
    output = net(torch.randn(1, 1, 40, 40))
    assert seen[0].min() == 0
    assert output.min() < 0
