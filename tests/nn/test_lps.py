"""Learnable polyphase sampling: equivariance, phases, ties, and how it is taught."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stitchsafe.nn import (
    LPD,
    LPU,
    LogitsNetwork,
    MultirateLinear,
    StepDecay,
    TieError,
    TieWarning,
    anneal,
    parameter_groups,
    pinned,
    schedule,
)
from stitchsafe.nn._polyphase import join, local_phases, next_origin, offsets, phase, place, split

CONV = {2: nn.Conv2d, 3: nn.Conv3d}


class CircularUNet(nn.Module):
    """A U-Net with circular padding, and polyphase sampling or max-pool and nearest upsampling."""

    def __init__(self, sampling: str, *, ndim=2, levels=3, channels=4, low_pass=None, **more):
        super().__init__()
        conv, c = CONV[ndim], channels
        self.sampling = sampling

        def block(before: int, after: int) -> nn.Sequential:
            layer = conv(before, after, 3, padding=1, padding_mode="circular")
            return nn.Sequential(layer, nn.ReLU())

        self.down = nn.ModuleList(block(c if n else 1, c) for n in range(levels + 1))
        self.up = nn.ModuleList(block(2 * c, c) for _ in range(levels))
        if sampling == "lps":
            self.shrink = nn.ModuleList(
                LPD(ndim, c, low_pass=low_pass, **more) for _ in range(levels)
            )
            self.grow = nn.ModuleList(LPU(low_pass=low_pass) for _ in range(levels))

    def forward(self, x: Tensor, selections=None) -> Tensor:
        kept, chosen = [], []
        for level, block in enumerate(self.down):
            x = block(x)
            if level < len(self.up):
                kept.append(x)
                if self.sampling == "lps":
                    given = selections[level] if selections else None
                    x, selection = self.shrink[level](x, given)
                    chosen.append(selection)
                else:
                    x = F.max_pool2d(x, 2)
        for level in reversed(range(len(self.up))):
            if self.sampling == "lps":
                x = self.grow[level](x, chosen[level])
            else:
                x = F.interpolate(x, scale_factor=2.0)
            x = self.up[level](torch.cat([kept[level], x], 1))
        return x


def rolled(x: Tensor, shift: tuple[int, ...]) -> Tensor:
    return x.roll(shift, tuple(range(2, 2 + len(shift))))


def exact_shifts(net: nn.Module, x: Tensor, shifts, tolerance=1e-12) -> int:
    """For how many shifts the output moves along with the input."""
    with torch.inference_mode():
        whole, shifts = net(x), list(shifts)
        found = 0
        for start in range(0, len(shifts), 64):
            some = shifts[start : start + 64]
            out = net(torch.cat([rolled(x, shift) for shift in some]))
            for shift, each in zip(some, out, strict=True):
                found += int((each - rolled(whole, shift)[0]).abs().max() <= tolerance)
    return found


def every(size: int, ndim: int = 2):
    return itertools.product(range(size), repeat=ndim)


# phases


@pytest.mark.parametrize("ndim", [2, 3])
def test_phases_are_row_major_and_come_together_again(ndim):
    x = torch.randn(2, 3, *(4, 6, 8)[:ndim])
    apart = split(x)
    for index, start in enumerate(offsets(ndim)):
        assert index == sum(d << (ndim - 1 - axis) for axis, d in enumerate(start))
        cut = tuple(slice(d, None, 2) for d in start)
        assert torch.equal(apart[:, index], x[(..., *cut)])
        assert torch.equal(phase(x, index), x[(..., *cut)])
        placed = place(apart[:, index], F.one_hot(torch.tensor([index]), 2**ndim))
        assert torch.equal(placed[(..., *cut)], x[(..., *cut)])
        assert placed.count_nonzero() == apart[:, index].count_nonzero()
    assert torch.equal(join(apart), x)


def test_the_order_of_phases_is_that_of_pixel_unshuffle():
    x = torch.randn(2, 1, 4, 6)
    assert torch.equal(F.pixel_unshuffle(x, 2), split(x)[:, :, 0])


@pytest.mark.parametrize("shape", [(1, 2, 5, 4), (1, 2, 4, 4, 7)])
def test_odd_sizes_are_refused(shape):
    with pytest.raises(ValueError, match=f"axis {shape[2:].index(max(shape[2:]))} has .* even"):
        LPD(len(shape) - 2, 2).eval()(torch.zeros(shape))


# equivariance


def test_every_circular_shift_is_exact_for_lps_and_one_in_64_for_max_pooling():
    """FACTS: 256 of 256 for three levels on 16^2, exactly 16 of 1024 for the twin on 32^2."""
    torch.manual_seed(0)
    lps = CircularUNet("lps").double().eval()
    assert exact_shifts(lps, torch.randn(1, 1, 16, 16).double(), every(16)) == 256
    twin = CircularUNet("max").double().eval()
    assert exact_shifts(twin, torch.randn(1, 1, 32, 32).double(), every(32)) == 16


@pytest.mark.parametrize("options", [{"low_pass": 3}, {"low_pass": 2}, {"max_pool": 2}])
def test_filters_and_maxima_keep_it_equivariant(options):
    torch.manual_seed(0)
    net = CircularUNet("lps", levels=2, channels=8, **options).double().eval()
    x = 20 * torch.randn(1, 1, 16, 16).double()  # so large that ReLU has kinks to see
    assert exact_shifts(net, x, [(n, 3 * n % 16) for n in range(16)]) == 16


def test_shifts_along_one_axis_move_the_right_axis():
    torch.manual_seed(2)
    net = CircularUNet("lps", levels=2).double().eval()
    x = torch.randn(1, 1, 8, 16).double()
    shifts = [(n, 0) for n in range(8)] + [(0, n) for n in range(16)]
    assert exact_shifts(net, x, shifts) == 24


def test_three_dimensions():
    torch.manual_seed(3)
    net = CircularUNet("lps", ndim=3, levels=1, low_pass=3).double().eval()
    x = torch.randn(1, 1, 4, 6, 8).double()
    assert exact_shifts(net, x, itertools.product(range(4), range(6), range(8))) == 192


@pytest.mark.parametrize("shift", [(1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("padding", ["circular", "zeros", "valid"])
def test_claim_4_the_phase_moves_and_placement_undoes_it(shift, padding):
    """LPU o LPD alone; scores of zero padding see the border, and a blob far from it does not."""
    torch.manual_seed(4)
    x = torch.zeros(1, 2, 24, 24).double()
    x[..., 8:16, 8:16] = torch.randn(1, 2, 8, 8)
    down, up = LPD(2, 2, score_padding=padding).double().eval(), LPU()
    y, before = down(x)
    z, after = down(rolled(x, shift))
    dy, dx = divmod(int(before.phases), 2)
    assert divmod(int(after.phases), 2) == ((dy + shift[0]) % 2, (dx + shift[1]) % 2)
    assert torch.equal(up(z, after), rolled(up(y, before), shift))


# scores


@pytest.mark.parametrize("padding", ["circular", "zeros", "valid"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_scores_are_the_two_convolutions_of_table_a3(ndim, padding):
    torch.manual_seed(0)
    net = LogitsNetwork(ndim, 3, hidden=4, padding=padding).double()
    phases = torch.randn(2, 2**ndim, 3, *(5, 6, 7)[:ndim]).double()
    x = phases.flatten(0, 1)
    for layer in (net.conv1, net.conv2):
        if padding != "valid":
            mode = "circular" if padding == "circular" else "constant"
            x = F.pad(x, (1, 1) * ndim, mode=mode)
        x = layer(x)
        x = x.relu() if layer is net.conv1 else x
    expected = x.flatten(1).mean(1).reshape(2, -1)
    assert torch.allclose(net(phases), expected, rtol=0, atol=1e-14)


def test_the_score_network_has_the_parameters_of_table_a3():
    net = LogitsNetwork(2, 64, hidden=8)
    assert sum(p.numel() for p in net.parameters()) == 64 * 8 * 9 + 8 + 8 * 8 * 9 + 8


@pytest.mark.parametrize("padding", ["circular", "zeros", "valid"])
def test_rounding_stays_within_its_bound_and_the_bound_is_of_use(padding):
    torch.manual_seed(5)
    net = LogitsNetwork(2, 6, padding=padding).requires_grad_(False)
    phases = torch.randn(8, 4, 6, 9, 11)
    found, bound = net(phases), net.scale(phases) * net.terms * 2.0**-24
    exact = net.double()(phases.double())
    error = (found - exact).abs()
    assert (error <= bound).all()
    assert error.max() > 0
    # A wrong input of the announced relative size: the bound must hold, and not by far too much.
    signs = torch.where(torch.randn(500, 1, *phases.shape[1:]) > 0, 1e-3, -1e-3).double()
    off = max(float((net(phases[:1] * (1 + s)) - exact[:1]).abs().max()) for s in signs)
    assert 1e-3 < off / (1e-3 * float(net.scale(phases[:1]).max())) <= 1


def test_a_gap_within_the_bound_of_float32_is_told_by_double():
    torch.manual_seed(0)
    down = LPD(2, 4, ties="raise").eval()
    x = torch.randn(1, 4, 16, 16)
    near = 1 + 3e-5 * x  # gaps of 1e-6, by which single precision cannot decide
    selection = down(near)[1]
    score, phases = down.pick.score, split(near)
    single = float(2 * score.scale(phases).max() * score.terms * 2.0**-24)
    assert float(selection.bound) < float(selection.margin) < single
    assert torch.equal(selection.phases, down.double()(near.double())[1].phases)


def test_sums_gathered_piece_by_piece_give_the_score_of_the_whole():
    torch.manual_seed(6)
    net = LogitsNetwork(2, 3, padding="valid").double()
    x = torch.randn(1, 3, 30, 13).double()
    hidden = net.hidden(x)  # 28 rows, of which tap t sees rows t to t + 25
    halves = [net.means(hidden[..., :15, :]) * 13, net.means(hidden[..., 13:, :]) * 13]
    assert torch.allclose(net.from_means(sum(halves) / 26), net(x[:, None])[0], rtol=0, atol=6e-14)


# ties


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_constant_image_ties_is_averaged_and_said(ndim):
    torch.manual_seed(0)
    down, up = LPD(ndim, 2).eval(), LPU(low_pass=3)
    x = torch.full((2, 2, *(8,) * ndim), 0.3)
    x[1] = torch.randn_like(x[1])
    with pytest.warns(TieWarning, match="1 of 2 images have tied phases"):
        y, selection = down(x)
    assert selection.tied.tolist() == [True, False]
    assert torch.equal(selection.weights[0], torch.full((2**ndim,), 0.5**ndim).double())
    assert torch.allclose(y[0], x[0, :, ::2, ::2, ...][(..., *(slice(0, 4),) * ndim)])
    assert torch.allclose(up(y, selection)[0], x[0], atol=1e-7)


def test_an_odd_period_ties_and_what_comes_out_does_not_move_along():
    """FACTS: no unique argmax, no equivariance; the layer must say so."""
    torch.manual_seed(0)
    column = torch.tensor([0.0, 1.0, 3.0]).double().repeat(4)
    x = column.expand(1, 2, 12, 12).contiguous()
    for ties in ("average", "first"):
        down, up = LPD(2, 2, ties=ties).double().eval(), LPU()
        with pytest.warns(TieWarning):
            whole = up(*down(x))
        with pytest.warns(TieWarning):
            moved = up(*down(rolled(x, (0, 1))))
        assert (moved - rolled(whole, (0, 1))).abs().max() > 0.3


def test_ties_can_be_refused():
    down = LPD(2, 2, ties="raise").eval()
    with pytest.raises(TieError, match="from outside"):
        down(torch.ones(1, 2, 8, 8))
    down(torch.randn(1, 2, 8, 8))


def test_a_phase_given_from_outside_is_no_tie():
    down = LPD(2, 2, ties="raise").eval()
    y, selection = down(torch.ones(1, 2, 8, 8), pinned(3, ndim=2)[0])
    assert y.shape == (1, 2, 4, 4)
    assert selection.tied is None


# shared and given selections


def test_a_shortcut_takes_the_sample_of_the_main_branch():
    torch.manual_seed(0)
    down = LPD(2, 4)  # in training: a sample
    main, shortcut = torch.randn(3, 4, 8, 8), torch.randn(3, 7, 8, 8)
    _, selection = down(main)
    z, same = down(shortcut, selection)
    assert same is selection
    expected = (split(shortcut) * selection.weights.to(shortcut)[:, :, None, None, None]).sum(1)
    assert torch.allclose(z, expected, atol=1e-6)
    assert ((selection.weights > 0) & (selection.weights < 1)).all()


def test_upsampling_places_by_weights():
    torch.manual_seed(0)
    y, selection = LPD(2, 3)(torch.randn(2, 3, 8, 8))
    apart = split(LPU()(y, selection))
    for index in range(4):
        weight = selection.weights.to(y)[:, index].reshape(-1, 1, 1, 1)
        assert torch.equal(apart[:, index], y * weight)


def test_the_gain_of_upsampling():
    """FACTS: a quarter in 2-D unless compensated, an eighth in 3-D."""
    for ndim in (2, 3):
        selection = pinned(0, ndim=ndim)[0]
        y = torch.ones(1, 1, *(4,) * ndim)
        gain = [float(LPU(low_pass=3, compensate=c)(y, selection).mean()) for c in (False, True)]
        assert gain == [0.5**ndim, 1.0]


@pytest.mark.parametrize("ndim", [2, 3])
def test_global_phases_keep_the_same_elements_whatever_the_tiles_origin(ndim):
    world = torch.arange(24**ndim).reshape(1, 1, *(24,) * ndim).double()
    for k, origin in itertools.product(range(2**ndim), every(2, ndim)):
        kept = phase(world, k)
        tile = world[(..., *(slice(o + 4, o + 12) for o in origin))]
        start = tuple(o + 4 for o in origin)
        local = int(local_phases(torch.tensor(k), start, ndim))
        begin = next_origin(torch.tensor(k), start, ndim).tolist()
        expected = kept[(..., *(slice(b, b + 4) for b in begin))]
        assert torch.equal(phase(tile, local), expected)


def test_origins_of_an_extended_border_are_negative():
    assert int(local_phases(torch.tensor(0), (-1, -2), 2)) == 2
    assert next_origin(torch.tensor([0, 3]), (-3, -2), 2).tolist() == [[-1, -1], [-2, -1]]


@pytest.mark.parametrize("origin", [(0, 0), (3, 6), (5, 1), (8, 2)])
def test_tiles_with_given_phases_equal_the_whole(origin):
    """Several levels, valid convolutions, any origin: only global phases make this exact."""
    torch.manual_seed(7)
    size, levels = 44, 2

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.ModuleList(nn.Conv2d(n, 2, 3) for n in (1, 2, 2))
            self.down = nn.ModuleList(LPD(2, 2, score_padding="valid") for _ in range(levels))

        def forward(self, x, selections=None):
            chosen = []
            for level, conv in enumerate(self.conv):
                x = conv(x).tanh()
                if level < levels:
                    x, selection = self.down[level](x, selections and selections[level])
                    chosen.append(selection)
            return x, chosen

    net = Encoder().double().eval()
    x = torch.randn(1, 1, 2 * (2 * (3 + 6) + 2) + 2 + size, 66 + 20).double()
    with torch.inference_mode():
        whole, chosen = net(x)
        decided = [int(selection.phases) for selection in chosen]
        tile = x[..., origin[0] : origin[0] + 30, origin[1] : origin[1] + 30]
        found, _ = net(tile, pinned(decided, ndim=2, origin=origin))
        at = torch.tensor(origin)
        for k in decided:
            at = next_origin(torch.tensor(k), at, 2)
        top, left = at.tolist()
        expected = whole[..., top : top + found.shape[2], left : left + found.shape[3]]
        assert torch.allclose(found, expected, rtol=0, atol=1e-12)
        if any(o % 4 for o in origin):
            naive, _ = net(tile, pinned(decided, ndim=2))
            assert (naive - expected).abs().max() > 1e-3


def test_selections_may_differ_between_images_of_a_batch():
    x = torch.randn(3, 1, 4, 4)
    (selection,) = pinned(torch.tensor([[0, 1, 3]]), ndim=2, origin=[[0, 0], [1, 0], [1, 1]])
    assert selection.phases.tolist() == [0, 3, 0]
    y, _ = LPD(2, 1).eval()(x, selection)
    for image, index in enumerate((0, 3, 0)):
        assert torch.equal(y[image], phase(x, index)[image])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"phases": 4, "ndim": 2}, "0 to 3"),
        ({"phases": [-1], "ndim": 3}, "0 to 7"),
        ({"phases": 0.5, "ndim": 2}, "whole numbers"),
        ({"phases": 0, "ndim": 2, "origin": (1, 2, 3)}, "2 whole numbers"),
    ],
)
def test_impossible_phases_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        pinned(arguments.pop("phases"), **arguments)


# training


def test_samples_follow_the_scores_and_the_temperature():
    torch.manual_seed(0)
    down = LPD(2, 2)
    x = torch.randn(1, 2, 8, 8)
    scores = down(x)[1].scores[0]
    many = x.expand(4000, -1, -1, -1)
    down.tau.fill_(1e-3)
    drawn = down(many)[1].weights
    assert drawn.amax(1).mean() > 0.99
    expected = torch.softmax(scores, 0)
    assert torch.allclose(drawn.argmax(1).bincount(minlength=4) / 4000, expected.float(), atol=0.03)
    down.tau.fill_(1e3)
    assert torch.allclose(down(x)[1].weights, torch.full((1, 4), 0.25).double(), atol=0.01)


def test_the_soft_variant_is_soft_in_both_modes():
    torch.manual_seed(0)
    down = LPD(2, 2, in_training="softmax", in_evaluation="softmax")
    x = torch.randn(2, 2, 8, 8)
    soft = down(x)[1]
    assert torch.equal(soft.weights, torch.softmax(soft.scores, 1))
    assert torch.equal(down.eval()(x)[1].weights, soft.weights)


def test_gradients_reach_the_scores_in_training():
    torch.manual_seed(0)
    down, up = LPD(2, 2), LPU(low_pass=3)
    x = torch.randn(2, 2, 8, 8)
    up(*down(x)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in down.parameters())


def test_selection_layers_know_no_weight_decay():
    net = CircularUNet("lps", levels=2)
    decayed, free = parameter_groups(net, weight_decay=1e-4)
    assert (decayed["weight_decay"], free["weight_decay"]) == (1e-4, 0.0)
    names = {id(p): name for name, p in net.named_parameters()}
    assert {names[id(p)] for p in free["params"]} == {n for n in names.values() if "shrink" in n}
    assert len(decayed["params"]) + len(free["params"]) == len(names)
    torch.optim.SGD([decayed, free], lr=0.1)


def test_schedules_are_those_of_tables_a10_and_a11():
    cifar = schedule("cifar10-circular")
    assert [cifar(e) for e in (1, 10, 11, 21, 250)] == [
        1, 1, 0.85, pytest.approx(0.7225), 0.025,
    ]  # fmt: skip
    circular, standard = schedule("imagenet-circular"), schedule("imagenet-standard")
    assert [circular(e) for e in (1, 62, 82, 90)] == [1, 0.5, 0.05, 0.01]
    assert circular(72) == pytest.approx(0.275)
    assert [standard(e) for e in (1, 62, 90)] == [1, 0.5, 0.25]
    assert sum(standard.soft(e) for e in range(1, 91)) == 28
    assert not any(circular.soft(e) for e in range(1, 91))
    small = schedule("segmentation-resnet18-circular", backbone=0.01)
    assert [small(e) for e in (1, 60, 82, 90, 125)] == [0.01, 0.5, 0.15, 0.01, 0.01]
    large = schedule("segmentation-resnet101", backbone=0.25)
    assert [large(e) for e in (1, 10, 80, 100, 125)] == [0.25, 0.5, 0.3, 0.125, 0.01]


def test_schedules_can_be_stretched():
    short = schedule("imagenet-standard").stretched(10)
    assert (short(1), short(10), short.soft(10), short.soft(6)) == (1, 0.25, True, False)
    steps = schedule("cifar10-circular").stretched(25)
    assert [steps(e) for e in (1, 2, 25)] == [1, 0.85, 0.025]


@pytest.mark.parametrize(
    "call",
    [
        lambda: schedule("mnist"),
        lambda: schedule("segmentation-resnet101"),
        lambda: schedule("cifar10-circular", backbone=0.1),
        lambda: schedule("cifar10-circular")(0),
        lambda: StepDecay(minimum=0.0),
        lambda: MultirateLinear(9, ((1, 1.0), (1, 0.5))),
    ],
)
def test_impossible_schedules_are_refused(call):
    with pytest.raises(ValueError, match=r"; |: give"):
        call()


def test_annealing_sets_all_layers_and_turns_soft_in_the_end():
    net = CircularUNet("lps", levels=2)
    anneal(net, schedule("imagenet-standard"), 62)
    assert [float(d.tau) for d in net.shrink] == [0.5, 0.5]
    assert {d.pick.in_evaluation for d in net.shrink} == {"argmax"}
    anneal(net, schedule("imagenet-standard"), 63)
    assert {(d.pick.in_training, d.pick.in_evaluation) for d in net.shrink} == {("softmax",) * 2}
    assert "shrink.0.pick.tau" in net.state_dict()


# numbers and types


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("mode", ["softmax", "gumbel", "argmax"])
def test_gradients_are_right(ndim, mode):
    torch.manual_seed(0)
    down = LPD(ndim, 6, in_training=mode, low_pass=3, max_pool=2).double()
    up = LPU(low_pass=3)
    x = (5 * torch.randn(2, 6, *(8, 6, 6)[:ndim])).double().requires_grad_()

    def run(x, *parameters):
        torch.manual_seed(1)  # the same sample each time
        return up(*down(x))

    fast = {"fast_mode": True}
    assert torch.autograd.gradcheck(
        run, (x, *(down.parameters() if mode != "argmax" else ())), **fast
    )


@pytest.mark.parametrize("train", [False, True])
def test_bfloat16_and_autocast(train):
    torch.manual_seed(0)
    down, up = LPD(2, 4, low_pass=3).train(train), LPU(low_pass=3)
    x = torch.randn(2, 4, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, selection = down(x.bfloat16())
        z = up(y, selection)
    assert y.dtype == z.dtype == torch.bfloat16
    assert y.isfinite().all()
    assert z.isfinite().all()
    if not train:
        plain = down(x.bfloat16().float())[1]
        assert torch.equal(plain.phases, selection.phases)
        half = LPD(2, 4).bfloat16().eval()
        assert half(x.bfloat16())[0].dtype == torch.bfloat16


def test_the_decision_is_made_in_float32_under_autocast():
    torch.manual_seed(0)
    net = LogitsNetwork(2, 4)
    phases = torch.randn(1, 4, 4, 6, 6)
    plain = net(phases)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(net(phases), plain)


def test_two_passes_give_the_same_bits():
    torch.manual_seed(0)
    net = CircularUNet("lps", levels=2, low_pass=3).eval()
    x = torch.randn(2, 1, 16, 16)
    with torch.inference_mode():
        assert torch.equal(net(x), net(x))


@pytest.mark.parametrize("ndim", [2, 3])
def test_it_runs_as_onnx(ndim, tmp_path):
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    net = CircularUNet("lps", ndim=ndim, levels=1, low_pass=3, max_pool=2).eval()
    images = [torch.randn(1, 1, *(8,) * ndim) for _ in range(4)]
    run = onnx_session(net, images[0], tmp_path / "net.onnx")
    for x in images:
        with torch.inference_mode():
            assert torch.allclose(run(x), net(x), rtol=0, atol=1e-5)


def onnx_session(net: nn.Module, x: Tensor, path):
    import onnxruntime

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (x,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LPD(4, 1), "2 or 3"),
        (lambda: LPD(2, 0), "at least one channel"),
        (lambda: LPD(2, 1, score_padding="reflect"), "score|padding 'reflect'"),
        (lambda: LPD(2, 1, ties="ignore"), "ties 'ignore'"),
        (lambda: LPD(2, 1, in_evaluation="gumbel"), "in_evaluation 'gumbel'"),
        (lambda: LPD(2, 1)(torch.zeros(1, 2, 8, 8)), "channels=2"),
        (lambda: LPD(2, 1)(torch.zeros(1, 1, 8, 8, 8)), "ndim=3"),
        (lambda: LPD(2, 1)(torch.zeros(8, 8)), "2 axes"),
        (lambda: LPD(2, 1, score_padding="valid")(torch.zeros(1, 1, 8, 8)), "at least 10"),
        (lambda: LPD(3, 1)(torch.zeros(1, 1, 8, 8, 8), pinned(0, ndim=2)[0]), "does not fit"),
        (lambda: LPU()(torch.zeros(1, 1, 4, 4, 4), pinned(0, ndim=2)[0]), "does not fit"),
        (lambda: LPU()(torch.zeros(3, 1, 4, 4), pinned([[0, 1]], ndim=2)[0]), "does not fit"),
    ],
)
def test_bad_arguments_are_refused_with_a_remedy(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
