"""How learnable polyphase sampling is taught: samples, schedules, weight decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stitchsafe.nn import (
    LPD,
    LPU,
    MultirateLinear,
    StepDecay,
    anneal,
    parameter_groups,
    schedule,
)

# training


def test_samples_follow_the_scores_and_the_temperature():
    torch.manual_seed(0)
    down = LPD(2, 2)
    x = torch.randn(1, 2, 8, 8)
    with torch.no_grad():  # scores 2 apart, where noise of another shape would show
        scores = down(x)[1].scores[0]
        down.pick.score.conv2.weight *= 2 / (scores.max() - scores.min())
    scores = down(x)[1].scores[0].detach()
    many = x.expand(20000, -1, -1, -1)
    down.tau.fill_(1e-3)
    with torch.no_grad():
        drawn = down(many)[1].weights
    assert drawn.amax(1).mean() > 0.99
    shares = drawn.argmax(1).bincount(minlength=4) / len(many)
    assert torch.allclose(shares, torch.softmax(scores, 0).float(), rtol=0, atol=0.012)
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
    net = nn.ModuleDict({"shrink": LPD(2, 4), "conv": nn.Conv2d(4, 4, 3), "again": LPD(2, 4)})
    decayed, free = parameter_groups(net, weight_decay=1e-4)
    assert (decayed["weight_decay"], free["weight_decay"]) == (1e-4, 0.0)
    names = {id(p): name for name, p in net.named_parameters()}
    assert {names[id(p)] for p in free["params"]} == {
        n for n in names.values() if not n.startswith("conv.")
    }
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
    torch.manual_seed(0)
    net = nn.ModuleList([LPD(2, 4), nn.Conv2d(4, 4, 3), LPD(2, 4, in_training="argmax")])
    x = torch.randn(1, 4, 8, 8)

    def soft() -> list[bool]:
        """In training and in evaluation, layer by layer."""
        every = [down.train(mode)(x)[1] for down in net[::2] for mode in (True, False)]
        return [torch.equal(s.weights, torch.softmax(s.scores / 0.5, 1)) for s in every]

    course = schedule("imagenet-standard")
    anneal(net, course, 62)
    assert [float(d.tau) for d in net[::2]] == [0.5, 0.5]
    assert soft() == [False] * 4
    anneal(net, course, 63)
    for down in net[::2]:
        down.tau.fill_(0.5)
    assert soft() == [True] * 4
    assert "softened" in repr(net)
    anneal(net, course, 62)  # begins anew
    assert soft() == [False] * 4


def test_a_state_tells_whether_layers_were_soft():
    torch.manual_seed(0)
    made, other = (nn.Sequential(LPD(2, 4)).eval() for _ in range(2))
    x = torch.randn(1, 4, 8, 8)
    course = schedule("imagenet-standard")
    for epoch in (90, 1):
        anneal(made, course, epoch)
        other.load_state_dict(made.state_dict())
        assert torch.equal(other[0](x)[1].weights, made[0](x)[1].weights)
        assert float(other[0](x)[1].weights.max() < 1) == (epoch == 90)
    before = made.state_dict()
    del before["0.pick.softened"]  # as it was saved when none was kept
    other.load_state_dict(before)
    assert float(other[0](x)[1].weights.max()) == 1
