"""Replacing a layer by closed-form pooling, as the paper does: train, collect, fit, train again."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stitchsafe.nn import Classifier, ClosedFormFit, ClosedFormPool, replace_pooling

torch.set_num_threads(1)


def digits() -> list[tuple[Tensor, Tensor]]:
    """Bars at four places, on noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(160) % 4
    images = 0.7 * torch.randn(160, 1, 8, 8, generator=generator)
    for image, label in zip(images, labels, strict=True):
        image[0, :, 2 * int(label)] += 1.5
    return list(zip(images.split(40), labels.split(40), strict=True))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU())
        self.pool = nn.Conv2d(6, 12, 3, 2, 1)
        self.norm = nn.BatchNorm2d(12)
        self.last = nn.Linear(12 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.pool(self.first(x))))
        made: Tensor = self.last(x.flatten(1))
        return made


def trained(network: nn.Module) -> None:
    network.train()
    optimiser = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(12):
        for images, labels in digits():
            optimiser.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimiser.step()
    network.eval()


def test_a_strided_convolution_is_replaced_as_in_the_paper() -> None:
    torch.manual_seed(0)
    network, runs = Small(), []
    before = copy.deepcopy(network.state_dict())

    def train(given: nn.Module) -> None:
        runs.append({k: v.clone() for k, v in given.state_dict().items()})
        trained(given)
        runs.append({k: v.clone() for k, v in given.state_dict().items()})

    found = replace_pooling(network, "pool", digits(), train, alpha=5)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert isinstance(network.pool, nn.Conv2d)
    pooling = found.get_submodule("pool")
    assert isinstance(pooling, ClosedFormPool)
    assert pooling.pooling.shape == (2, 16, 64)  # scale and components are the layer's
    assert len(runs) == 4
    assert all(torch.equal(v, before[k]) for k, v in runs[0].items())
    fresh, last = runs[2]["first.0.weight"], runs[1]["first.0.weight"]
    assert not torch.equal(fresh, last)  # trained again from fresh weights
    maps = torch.cat([F.relu(F.conv2d(x, last, runs[1]["first.0.bias"], padding=1))
                      for x, _ in digits()])  # fmt: skip
    expected = ClosedFormFit(alpha=5).fit(maps, torch.cat([y for _, y in digits()]))
    assert np.abs(pooling.pooling.numpy() - expected.pooling_).max() < 1e-3
    right = sum(int((found(x).argmax(1) == y).sum()) for x, y in digits())
    assert right >= 150


def test_weights_can_be_kept_and_no_training_be_done() -> None:
    torch.manual_seed(0)
    network = Small()
    network.train()
    kept = replace_pooling(network, "pool", digits())
    assert kept.training
    assert kept.pool.training
    assert torch.equal(kept.first[0].weight, network.first[0].weight)
    weights = []
    replace_pooling(
        network, "pool", digits(), lambda n: weights.append(n.last.weight.clone()), restart=False
    )
    assert torch.equal(*weights)


def test_a_further_layer_can_be_replaced() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()
    )
    twice = replace_pooling(replace_pooling(network, "3", digits()), "1", digits())
    assert [type(m).__name__ for m in twice][1::2] == ["ClosedFormPool", "ClosedFormPool"]
    assert twice(digits()[0][0]).shape == network(digits()[0][0]).shape


def generator() -> object:
    yield from digits()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: replace_pooling(Small(), "down", digits()), "no layer 'down'; it has: first,"),
        (lambda: replace_pooling(Small(), "pool", generator()), "only once"),
        (lambda: replace_pooling(Small(), "pool", []), "no batches"),
        (lambda: replace_pooling(Small(), "last", digits()), "no closed-form pooling"),
        (lambda: replace_pooling(Classifier(ndim=2, classes=4, downsampling="lps"), "pool.0",
                                 digits()), "of type LPD and returns more than a tensor"),
        (lambda: replace_pooling(nn.Sequential(nn.Conv2d(1, 1, 3)), "0", digits()),
         "divides sizes"),
    ],
)  # fmt: skip
def test_what_cannot_be_replaced_is_refused_in_one_line(made: object, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        made()
    assert "\n" not in str(refused.value)
