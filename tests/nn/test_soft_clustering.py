"""Soft clustering: the paper's numbers, the border, decoding, and networks of it."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stitchsafe.nn import (
    HCFCN,
    ClusterUp,
    HCBackbone,
    SoftClusterDown,
    decode,
    hard_decode,
    superpixels,
)

torch.set_num_threads(1)


def down(ndim: int = 2, **settings: object) -> SoftClusterDown:
    torch.manual_seed(0)
    return SoftClusterDown(ndim, 3, 5, **settings).double()


def image(ndim: int, size: int = 8, channels: int = 3) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, channels, *(size,) * ndim, dtype=torch.float64)


def by_loops(layer: SoftClusterDown, x: Tensor, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Assignment and decoding of y, pixel by pixel, straight from Eq. 4 and 2."""
    own = layer.assignment
    pixels, seeds = (
        np.moveaxis(each.detach().numpy(), 1, -1) for each in (own.pixels(x), own.seeds(y))
    )
    held = np.moveaxis(y.detach().numpy(), 1, -1)
    cells = y.shape[2:]
    offsets = list(itertools.product((-1, 0, 1), repeat=len(cells)))
    weights = np.zeros((x.shape[0], len(offsets), *x.shape[2:]))
    decoded = np.zeros((x.shape[0], y.shape[1], *x.shape[2:]))
    for b in range(x.shape[0]):
        for place in np.ndindex(*x.shape[2:]):
            found = {}
            for k, offset in enumerate(offsets):
                cell = tuple(p // 2 + o for p, o in zip(place, offset, strict=True))
                if all(0 <= c < n for c, n in zip(cell, cells, strict=True)):
                    v, w = pixels[(b, *place)], seeds[(b, *cell)]
                    cosine = v @ w / np.linalg.norm(v) / np.linalg.norm(w)
                    found[k] = math.exp(cosine / own.temperature), held[(b, *cell)]
            total = sum(weight for weight, _ in found.values())
            for k, (weight, value) in found.items():
                weights[(b, k, *place)] = weight / total
                decoded[(b, slice(None), *place)] += weight / total * value
    return weights, decoded


@pytest.mark.parametrize(("ndim", "candidates"), [(2, 9), (3, 27)])
def test_it_is_what_plain_loops_give(ndim: int, candidates: int) -> None:
    layer, x = down(ndim), image(ndim, 6)
    y, assignment = layer(x)
    assert y.shape[1:] == (5, *(3,) * ndim)
    assert assignment.shape[1:] == (candidates, *(6,) * ndim)
    weights, decoded = by_loops(layer, x, y)
    assert np.abs(assignment.detach().numpy() - weights).max() < 1e-12
    assert np.abs(decode(y, assignment).detach().numpy() - decoded).max() < 1e-12


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("padding", ["same", "valid", "circular"])
def test_ones_are_decoded_to_ones(ndim: int, padding: str) -> None:
    y, assignment = down(ndim, padding=padding)(image(ndim))
    decoded = decode(torch.ones_like(y), assignment, padding=padding)
    assert decoded.shape[2:] == ((4,) if padding == "valid" else (8,)) * ndim
    torch.testing.assert_close(decoded, torch.ones_like(decoded), rtol=0, atol=1e-14)


def test_without_the_mask_a_third_is_lost_at_the_border() -> None:
    layer, x = down(), image(2, 32)
    own, y = layer.assignment, layer.down(x)
    pixels, seeds = (F.normalize(each, dim=1) for each in (own.pixels(x), own.seeds(y)))
    near = F.unfold(F.pad(seeds, (1, 1, 1, 1)), 3).reshape(2, 64, 9, 16, 1, 16, 1)
    similarity = (pixels.reshape(2, 64, 1, 16, 2, 16, 2) * near).sum(1)
    listed = (similarity / 0.07).softmax(1).reshape(2, 9, 32, 32)  # as in the paper's listing
    ones = decode(torch.ones_like(y), listed)[:, 0]
    edge = torch.ones(32, 32, dtype=torch.bool)
    edge[2:-2, 2:-2] = False
    assert ones[:, ~edge].min() > 1 - 1e-12
    # FACTS has .70, of features that are not handed down; it grows with how alike neighbours are.
    assert float(ones[:, edge].mean().detach()) == pytest.approx(0.799, abs=0.02)
    # Where all are alike but for the ring, 6 of 9 candidates hold something, and 4 in the corners.
    even = decode(torch.ones_like(y), torch.full_like(listed, 1 / 9))[:, 0]
    expected = (56 * 6 / 9 + 4 * 4 / 9) / 60
    assert float(even[:, edge].mean()) == pytest.approx(expected, abs=1e-12)
    inside = own(x, y)
    torch.testing.assert_close(inside[..., 2:-2, 2:-2], listed[..., 2:-2, 2:-2], rtol=0, atol=1e-12)


def test_cosines_bound_what_the_softmax_is_given() -> None:
    layer = down()
    own = layer.assignment
    with torch.no_grad():
        x = 30 * image(2)
        y = layer.down(x)
        _, assignment = layer(x)
        plain = (own.pixels(x)[..., 2:4, 2:4] * own.seeds(y)[..., 1:2, 1:2]).sum(1) / 0.07
    inside = assignment[..., 2:-2, 2:-2]
    spread = inside.amax(1).log() - inside.amin(1).log()
    assert spread.max() <= 2 / 0.07 + 1e-9
    # Without, it has no bound: it grows as the square of the image. FACTS' 351 is of features that
    # are not handed down, so any number here would only be that of these.
    assert plain.abs().max() > 351
    with torch.no_grad():
        own.seeds.weight *= 1000
        alike = layer(x)[1]
    torch.testing.assert_close(alike, assignment, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ndim", [2, 3])
def test_all_weight_on_the_own_cell_is_nearest_upsampling(ndim: int) -> None:
    y = image(ndim, 4, 5)
    own = torch.zeros(2, 3**ndim, *(8,) * ndim, dtype=torch.float64)
    own[:, 3**ndim // 2] = 1
    nearest = F.interpolate(y, scale_factor=2, mode="nearest")
    assert torch.equal(decode(y, own), nearest)
    assert torch.equal(hard_decode(y, own), nearest)


def test_candidates_are_numbered_row_by_row() -> None:
    y = torch.arange(16.0).reshape(1, 1, 4, 4)
    for k, (dy, dx) in enumerate(itertools.product((-1, 0, 1), repeat=2)):
        one = torch.zeros(1, 9, 8, 8)
        one[:, k] = 1
        found = decode(y, one)[0, 0, 2:6, 2:6]
        expected = y[0, 0, 1 + dy : 3 + dy, 1 + dx : 3 + dx]
        assert torch.equal(found, expected.repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_hard_decoding_takes_the_most_similar_cell() -> None:
    y, assignment = down()(image(2))
    one = F.one_hot(assignment.argmax(1), 9).movedim(-1, 1).double()
    torch.testing.assert_close(hard_decode(y, assignment), decode(y, one), rtol=0, atol=1e-15)
    up = ClusterUp(2, hard=True)
    assert torch.equal(up(y, assignment), hard_decode(y, assignment))


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_cell_without_weight_says_nothing(ndim: int) -> None:
    y, one = image(ndim, 4, 2), torch.zeros(2, 3**ndim, *(8,) * ndim, dtype=torch.float64)
    one[:, 3**ndim // 2] = 1
    y[(0, 0, *(1,) * ndim)] = math.inf
    y[(1, 1, *(2,) * ndim)] = math.nan
    found = decode(y, one)
    torch.testing.assert_close(found, hard_decode(y, one), rtol=0, atol=0, equal_nan=True)
    assert int((~found.isfinite()).sum()) == 2 * 2**ndim
    soft = decode(y, down(ndim)(image(ndim))[1])
    assert torch.isposinf(soft[0, 0]).sum() == 6**ndim  # wherever it is a candidate
    assert soft[0, 1].isfinite().all()


def test_where_all_cells_are_alike_a_pixel_keeps_its_own() -> None:
    _, assignment = down()(torch.ones(1, 3, 8, 8, dtype=torch.float64))
    (found,) = superpixels([assignment])
    expected = torch.arange(16).reshape(4, 4).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(found[0], expected)


@pytest.mark.parametrize("ndim", [2, 3])
def test_superpixels_are_nested(ndim: int) -> None:
    torch.manual_seed(0)
    network = HCFCN(ndim=ndim, out_channels=2, widths=(4, 4, 4, 4)).eval()
    size = 32 if ndim == 2 else 16
    with torch.no_grad():
        maps = network.superpixels(torch.randn(2, 1, *(size,) * ndim))
    assert [each.shape for each in maps] == [(2, *(size,) * ndim)] * 3
    assert all(each.dtype == torch.int64 for each in maps)
    for level, each in enumerate(maps, start=1):
        assert each.min() >= 0
        assert each.max() < (size >> level) ** ndim
    for fine, coarse in itertools.pairwise(maps):
        for b in range(2):
            pairs = torch.stack([fine[b].ravel(), coarse[b].ravel()]).unique(dim=1)
            assert len(pairs[0].unique()) == pairs.shape[1]
        assert len(coarse[0].unique()) < len(fine[0].unique())


def test_a_level_s_superpixels_are_parents_of_the_finer_ones() -> None:
    torch.manual_seed(0)
    first, second = torch.rand(1, 9, 8, 8), torch.rand(1, 9, 4, 4)
    first[:, :, :2], first[:, :, -2:], first[..., :2], first[..., -2:] = 0, 0, 0, 0
    first[:, 4] += 0.1  # at the border only the own cell is left
    second[:, 4] += 2
    fine, coarse = superpixels([first, second])
    parents = torch.arange(4).reshape(2, 2).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(coarse[0], parents.ravel()[fine[0]])


def test_valid_layers_give_the_centre_of_masked_ones() -> None:
    masked, valid = down(), down(padding="valid")
    x = image(2, 12)
    (y, wide), (_, cut) = masked(x), valid(x)
    torch.testing.assert_close(cut, wide[..., 2:-2, 2:-2], rtol=0, atol=0)
    whole = decode(y, wide)
    for less in (0, 1):  # what layers between downsampling and decoding took off
        inner = y[..., less : 6 - less, less : 6 - less]
        found = decode(inner, cut, padding="valid")
        edge = 2 + 2 * less
        torch.testing.assert_close(found, whole[..., edge:-edge, edge:-edge], rtol=0, atol=1e-15)
    (labels,) = superpixels([wide])
    (centre,) = superpixels([cut], padding="valid")
    assert torch.equal(centre, labels[..., 2:-2, 2:-2])


def test_circular_borders_follow_shifts_by_cells() -> None:
    layer, x = down(padding="circular"), image(2)
    y, assignment = layer(x)
    moved_y, moved = layer(torch.roll(x, (2, -4), (2, 3)))
    found = decode(moved_y, moved, padding="circular")
    expected = torch.roll(decode(y, assignment, padding="circular"), (2, -4), (2, 3))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_axes_that_are_not_downsampled_have_one_candidate() -> None:
    torch.manual_seed(0)
    layer = SoftClusterDown(3, 1, 2, factor=(1, 2, 2)).double()
    x = torch.randn(1, 1, 3, 8, 8, dtype=torch.float64)
    y, assignment = layer(x)
    assert y.shape == (1, 2, 3, 4, 4)
    assert assignment.shape == (1, 9, 3, 8, 8)
    decoded = decode(y, assignment, factor=(1, 2, 2))
    alone_y, alone = layer(x[:, :, 1:2])
    expected = decode(alone_y, alone, factor=(1, 2, 2))
    torch.testing.assert_close(decoded[:, :, 1:2], expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("ndim", "padding"), [(2, "same"), (2, "valid"), (3, "same")])
def test_gradients_are_right(ndim: int, padding: str) -> None:
    torch.manual_seed(0)
    settings = {"features": 3, "temperature": 0.5, "padding": padding}
    layer = SoftClusterDown(ndim, 1, 2, **settings).double()
    up = ClusterUp(ndim, padding=padding)
    x = torch.randn(1, 1, *(6 if padding == "valid" else 4,) * ndim, dtype=torch.float64)
    names = [name for name, _ in layer.named_parameters()]

    def passed(x: Tensor, *weights: Tensor) -> Tensor:
        given = dict(zip(names, weights, strict=True))
        return up(*torch.func.functional_call(layer, given, (x,)))

    weights = [each.detach().requires_grad_() for each in layer.parameters()]
    assert torch.autograd.gradcheck(passed, (x.requires_grad_(), *weights))


def test_an_empty_image_has_bounded_gradients() -> None:
    layer = down().float()
    x = torch.zeros(1, 3, 8, 8, requires_grad=True)
    y, assignment = layer(x)
    decode(y + torch.arange(16.0).reshape(4, 4), assignment).square().sum().backward()
    grads = [x.grad, *(p.grad for p in layer.parameters())]
    assert all(g is None or float(g.abs().max()) < 1e8 for g in grads)


def test_mixed_precision_keeps_weights_that_sum_to_one() -> None:
    layer = down().float()
    x = image(2).float()
    exact = decode(*layer(x))
    with torch.autocast("cpu", torch.bfloat16):
        y, assignment = layer(x)
        decoded = decode(y, assignment)
    assert (y.dtype, assignment.dtype, decoded.dtype) == (
        torch.bfloat16, torch.float32, torch.bfloat16,
    )  # fmt: skip
    torch.testing.assert_close(assignment.sum(1), torch.ones(2, 8, 8), rtol=0, atol=1e-6)
    assert (decoded - exact).abs().max() < 0.1 * exact.abs().max()
    half = layer.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert [each.dtype for each in half] == [torch.bfloat16, torch.float32]
    assert decode(*half).isfinite().all()


def test_it_is_deterministic_and_keeps_nothing() -> None:
    layer, up = down(), ClusterUp(2)
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    first, others = up(*layer(image(2))), layer(3 * image(2, 16))
    assert torch.equal(first, up(*layer(image(2))))
    assert others[1].shape[2:] == (16, 16)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
    assert not up.state_dict()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: down()(image(2, 7)), "7 pixels.*cells of 2.*pad or crop it to 8 or 6"),
        (lambda: down()(image(2, 0)), "0 pixels.*crop it to 2$"),
        (lambda: down()(image(3)), r"\(b, 3, \*pixels\) with 2 spatial axes, not .*8, 8, 8"),
        (lambda: down()(image(2, channels=2)), r"\(b, 3, \*pixels\)"),
        (lambda: decode(torch.ones(3, 1, 4, 4), torch.ones(2, 9, 8, 8)), "of 3 images .* of 2;"),
        (lambda: decode(torch.ones(2, 1, 4, 4), torch.ones(1, 9, 8, 8)), "of 2 images .* of 1;"),
        (lambda: down(down=nn.Identity())(image(2)), "downsampling made"),
        (lambda: down(padding="valid")(image(2, 4)), "too few"),
        (lambda: down(padding="reflect"), "'reflect'; choose"),
        (lambda: down(temperature=0), "above 0"),
        (lambda: down(factor=1), "does not reduce"),
        (lambda: down(factor=(2, 2, 2)), "does not reduce"),
        (lambda: down(features=0), "at least 1"),
        (lambda: ClusterUp(4), "does not reduce"),
        (lambda: decode(torch.ones(1, 1, 4, 4), torch.ones(1, 27, 8, 8)), "do not belong"),
        (lambda: decode(torch.ones(1, 1, 4, 4), torch.ones(1, 9, 10, 8)), "does not fit"),
        (
            lambda: decode(torch.ones(1, 1, 4, 4), torch.ones(1, 9, 6, 6), padding="valid"),
            "does not fit",
        ),
        (lambda: HCFCN(ndim=2, out_channels=0), "out_channels 0"),
        (lambda: HCBackbone(2, 1, (4,)), "at least two widths"),
        (lambda: HCBackbone(1, 1), "2 or 3"),
        (lambda: HCBackbone(2, 1, encoder="vgg"), "'vgg'; choose"),
        (lambda: HCBackbone(2, 1, encoder="resnet", padding="valid"), "encoder 'unet'"),
        (lambda: HCBackbone(2, 1, clustered=5), "from 0 to 3"),
        (lambda: HCBackbone(2, 1, (2, 2, 2))(torch.ones(1, 1, 10, 12)), "multiples of 4"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(made: object, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        made()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("encoder", ["unet", "resnet"])
@pytest.mark.parametrize("clustered", [0, 1, 3])
def test_backbones_predict_at_every_pixel(encoder: str, clustered: int) -> None:
    torch.manual_seed(0)
    settings = {"widths": (4, 6, 8, 10), "encoder": encoder, "clustered": clustered}
    network = HCFCN(ndim=2, in_channels=3, out_channels=5, **settings)
    features, assignments = network.backbone(torch.randn(2, 3, 32, 24))
    assert features.shape == (2, 10, 4, 3)
    strides = [32 // a.shape[2] for a in assignments]
    assert strides == [1, 2, 4][3 - clustered :]
    made = network(torch.randn(2, 3, 32, 24))
    assert made.shape == (2, 5, 32, 24)
    assert [m.shape for m in network.superpixels(torch.randn(1, 3, 32, 24))] == [
        (1, 32, 24)
    ] * clustered
    made.square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_lines_of_one_pixel_survive_cells_of_four() -> None:
    generator = np.random.default_rng(0)
    truth = torch.zeros(4, 16, 16, dtype=torch.int64)
    for each in truth:
        each[:, generator.integers(1, 15, 2)] = 1
    x = truth[:, None] + torch.from_numpy(generator.normal(0, 0.2, (4, 1, 16, 16)))
    overlaps = []
    for clustered in (2, 0):
        torch.manual_seed(0)
        network = HCFCN(
            ndim=2, out_channels=2, widths=(8, 16, 16), depth=1, clustered=clustered, features=16
        )
        optimiser = torch.optim.Adam(network.parameters(), 5e-3)
        for _ in range(150):
            optimiser.zero_grad()
            F.cross_entropy(network(x.float()), truth).backward()
            optimiser.step()
        found = network(x.float()).argmax(1)
        overlap = (found & truth).sum() / (found | truth).sum()
        overlaps.append(overlap.item())
    assert overlaps[0] > 0.9
    assert overlaps[1] < 0.5  # bilinear


@pytest.mark.parametrize(("ndim", "hard"), [(2, False), (2, True), (3, False)])
def test_it_exports_to_onnx(ndim: int, hard: bool, tmp_path: object) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime comes with the extra onnx")
    pytest.importorskip("onnxscript", reason="onnxscript comes with the extra dev")
    torch.manual_seed(0)
    network = HCFCN(
        ndim=ndim, out_channels=2, widths=(4, 4, 4)[: 5 - ndim], depth=1, hard=hard
    ).eval()
    x = torch.randn(1, 1, *(16,) * ndim)
    path = str(tmp_path / "network.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (x,), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        expected = network(x).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.slow
def test_a_valid_one_exports_with_open_sizes(tmp_path: object) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime comes with the extra onnx")
    pytest.importorskip("onnxscript", reason="onnxscript comes with the extra dev")
    torch.manual_seed(0)
    network = HCFCN(ndim=2, out_channels=2, widths=(4, 4, 4), depth=1, features=4, padding="valid")
    network.eval()
    path, open_sizes = str(tmp_path / "network.onnx"), dict.fromkeys((2, 3), torch.export.Dim.AUTO)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.randn(1, 1, 54, 62),), path,
            dynamo=True, verbose=False, dynamic_shapes=(open_sizes,),
        )  # fmt: skip
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for sizes in ((54, 62), (38, 78), (30, 46)):
        x = torch.randn(1, 1, *sizes)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            expected = network(x).numpy()
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
