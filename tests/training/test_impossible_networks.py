"""Networks that cannot be are refused by their key in train.yaml, with the nearest value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_training import content

from stitchsafe.errors import InputError
from stitchsafe.training import TrainingConfig
from stitchsafe.training._network import build_network


@pytest.mark.parametrize(
    ("arguments", "changes", "words"),
    [
        ({"ndim": 3}, {}, r"network.arguments.ndim is 3, and input.axes is yx; give ndim: 2"),
        ({}, {"input": {"axes": "yx", "channels": 3}}, r"in_channels is 1.*give in_channels: 3"),
        ({"in_channels": 2}, {}, r"arguments.in_channels is 2.*input.channels is 1"),
        ({"levls": 2}, {}, r"arguments.levls is not known to unet; did you mean 'levels'\?"),
        ({"levels": 9}, {}, r"arguments.levels is 9.*period of 512.*window has 16.*levels: 3$"),
        ({"levels": 9, "padding": "same"}, {}, r"levels is 9.*levels: 4$"),
        ({"levels": -1}, {}, r"arguments.levels is -1; .*levels: 0"),
        ({"base_channels": 0}, {}, r"arguments.base_channels is 0; .*base_channels: 1"),
        ({"kernel_size": 4}, {}, r"kernel sizes must be odd.*correct network.arguments"),
    ],
)
def test_arguments_that_cannot_be(
    arguments: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    network = content()["network"]
    network["arguments"] |= arguments
    config = TrainingConfig.model_validate(content(network=network, **changes))
    with pytest.raises(InputError, match=words) as refused:
        build_network(config, folder=Path(), trust=False)
    assert "\n" not in str(refused.value)


def test_arguments_that_are_missing() -> None:
    config = TrainingConfig.model_validate(content(network={"name": "unet", "arguments": {}}))
    with pytest.raises(InputError, match=r"network\.arguments lacks ndim"):
        build_network(config, folder=Path(), trust=False)


@pytest.mark.parametrize(
    ("heads", "words"),
    [
        ({"embedding": None}, r"network.arguments.heads.embedding is None.*embedding: 1"),
        ({"embedding": 0}, r"heads.embedding is 0"),
        (["embedding"], r"give channels by name"),
    ],
)
def test_heads_without_channels(heads: Any, words: str) -> None:
    network = content()["network"]
    network["arguments"] |= {"heads": heads}
    with pytest.raises(ValueError, match=words):
        TrainingConfig.model_validate(content(network=network))
