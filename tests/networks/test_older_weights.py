"""Weights that were saved before a layer had all of its buffers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stitchsafe.errors import ModelError
from stitchsafe.networks import load_weights
from stitchsafe.nn import LPD


class Scaled(nn.Module):
    """With a buffer of which it does not say what it was before."""

    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.register_buffer("scale", torch.ones(1))


def saved(module: nn.Module, path: Path, *without: str) -> Path:
    state = module.state_dict()
    assert set(without) <= state.keys()
    save_file({key: value for key, value in state.items() if key not in without}, path)
    return path


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), LPD(2, 2))


def test_what_a_layer_knows_of_older_states_is_filled_in(tmp_path: Path) -> None:
    old, new = net(), net()
    with torch.no_grad():
        for parameter in old.parameters():
            parameter.normal_()
    (name,) = (key for key in old.state_dict() if key.endswith("softened"))
    load_weights(new, saved(old, tmp_path / "old.safetensors", name))
    for key, value in old.state_dict().items():
        assert torch.equal(value, new.state_dict()[key])


def test_nothing_else_is_made_up(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"weights of Scaled \(1 missing, first scale\)"):
        load_weights(Scaled(), saved(Scaled(), tmp_path / "a.safetensors", "scale"))
    keys = [key for key, _ in net().named_parameters()]
    with pytest.raises(ModelError, match=rf"{len(keys)} missing, first {keys[0]}"):
        load_weights(net(), saved(net(), tmp_path / "b.safetensors", *keys))
    (name,) = (key for key in net().state_dict() if key.endswith("softened"))
    with pytest.raises(ModelError, match=r"2 unexpected|missing.*unexpected"):
        load_weights(Scaled(), saved(net(), tmp_path / "c.safetensors", name))
