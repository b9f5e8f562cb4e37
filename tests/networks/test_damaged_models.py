"""Files with flipped, cut or missing bytes: each read as it is, or refused in one line."""

from __future__ import annotations

import io
import logging
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from model_files import package
from onnx_graphs import convolution, model, smoothing
from torch import nn

from stitchsafe.errors import ModelError
from stitchsafe.networks import TorchNetwork, load_network
from stitchsafe.nn import UNet

ARGUMENTS = {"ndim": 2, "levels": 1, "base_channels": 2, "heads": {"x": 1}}
FACTORY = "stitchsafe.nn:UNet"
GRAPH = model([convolution()], weights=[smoothing()]).SerializeToString()
DESCRIPTION = package(weights={"onnx": {"source": "w.onnx"}})


def zipped(kind: int, **files: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", kind) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("_", "."), content)
    return held.getvalue()


def packed(kind: int) -> bytes:
    text = yaml.safe_dump(DESCRIPTION).encode()
    return zipped(kind, bioimageio_yaml=text, w_onnx=GRAPH)


def state_dict(new: bool) -> bytes:
    held = io.BytesIO()
    torch.save(UNet(**ARGUMENTS).state_dict(), held, _use_new_zipfile_serialization=new)
    return held.getvalue()


FILES: dict[str, Callable[[], bytes]] = {
    "deflated.zip": lambda: packed(zipfile.ZIP_DEFLATED),
    "bzip2.zip": lambda: packed(zipfile.ZIP_BZIP2),
    "lzma.zip": lambda: packed(zipfile.ZIP_LZMA),
    "stored.zip": lambda: packed(zipfile.ZIP_STORED),
    "model.onnx": lambda: GRAPH,
    "model.czann": lambda: zipped(zipfile.ZIP_DEFLATED, model_model=GRAPH),
    "new.pth": lambda: state_dict(True),
    "old.pth": lambda: state_dict(False),
}


def damaged(content: bytes, chance: random.Random) -> bytes:
    found = bytearray(content)
    if chance.random() < 0.2:
        return bytes(found[: chance.randrange(len(found))])
    for _ in range(chance.choice([1, 3, 10])):
        found[chance.randrange(len(found))] = chance.randrange(256)
    return bytes(found)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore")
def test_damage_is_one_line(name: str, tmp_path: Path) -> None:
    """Whatever zlib, lzma, zipfile, protobuf, onnx or torch raise over it."""
    content, chance, path = FILES[name](), random.Random(name), tmp_path / name
    messages = []
    for _ in range(20):
        path.write_bytes(damaged(content, chance))
        try:
            if path.suffix == ".pth":
                load_network(FACTORY, weights=path, arguments=ARGUMENTS)
            else:
                load_network(path)
        except ModelError as error:
            messages.append(str(error))
    assert len(messages) > 5
    assert not [text for text in messages if "\n" in text or len(text) > 700]


def test_an_archive_over_several_disks_is_no_archive(tmp_path: Path) -> None:
    path, content = tmp_path / "w.pth", state_dict(True)
    # Of the end record of the larger form: on how many disks the archive lies.
    place = content.rindex(b"PK\x06\x07") + 16
    path.write_bytes(content[:place] + b"\x07" + content[place + 1 :])
    with pytest.raises(ModelError, match=r"is damaged .*disks.*fetch it again"):
        load_network(FACTORY, weights=path, arguments=ARGUMENTS)


@pytest.mark.parametrize(
    "line",
    [
        'license: !!int ""',
        "license: !!bool perhaps",
        "license: !!timestamp soon",
        "license: 2020-99-99",
    ],
)
def test_a_value_that_its_tag_cannot_have(line: str, tmp_path: Path) -> None:
    text = yaml.safe_dump({k: v for k, v in DESCRIPTION.items() if k != "license"})
    (tmp_path / "bioimageio.yaml").write_text(f"{text}\n{line}\n")
    with pytest.raises(ModelError, match=r"cannot be read as YAML .*; repair the file"):
        load_network(tmp_path)


def test_the_name_of_a_file_with_a_zero_byte(tmp_path: Path) -> None:
    content = package(weights={"onnx": {"source": "a\0b"}})
    (tmp_path / "bioimageio.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ModelError, match=r"the ONNX weights, .* is no name of a file"):
        load_network(tmp_path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_damaged_program_says_one_line(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch logs the traceback of each of its own attempts."""
    module = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1)).eval()
    sizes = {2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    program = torch.export.export(module, (torch.zeros(1, 1, 32, 32),), dynamic_shapes=(sizes,))
    path = tmp_path / "m.pt2"
    torch.export.save(program, path)
    with zipfile.ZipFile(path) as archive:
        (name,) = (each for each in archive.namelist() if "sample_inputs" in each)
        held = archive.read(name)
    content = bytearray(path.read_bytes())
    listed = content.index(held) + held.index(b"PK\x01\x02")  # an entry of the archive within
    content[listed : listed + 2] = b"XX"
    path.write_bytes(content)
    logged: list[logging.LogRecord] = []
    # In place of torch's handler, which writes to where stderr was when it was made.
    monkeypatch.setattr(logging.Logger, "callHandlers", lambda _, record: logged.append(record))
    with pytest.raises(ModelError, match="it is damaged, or of another torch") as caught:
        load_network(path, trust=True)
    assert "warnings above" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert [record.getMessage() for record in logged] == []


# Modules that are not ready


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("inside", [False, True])
def test_torchscript_is_refused(inside: bool) -> None:
    scripted = torch.jit.script(nn.Conv2d(1, 1, 3))
    module = nn.Sequential(nn.ReLU(), scripted) if inside else scripted
    with pytest.raises(ModelError, match=r"TorchScript.*export it as ONNX or as a \.pt2"):
        TorchNetwork(module, name="net")


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (nn.LazyConv2d(3, 3), "a LazyConv2d"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.LazyConv2d(1, 3)), "its LazyConv2d 1"),
    ],
)
def test_parameters_without_a_size_are_refused(
    module: nn.Module, named: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=f"{named}.*run it once on an input"):
        TorchNetwork(module, name="net")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=f"{named}.*run it once on an input"):
        load_network(module, weights=tmp_path / "w.pth")


def test_a_module_that_cannot_be_copied_is_refused() -> None:
    module = nn.Conv2d(1, 1, 3)
    module.held = module.weight * 2
    with pytest.raises(ModelError, match=r"net cannot be copied.*results of computation"):
        TorchNetwork(module, name="net")


def test_weights_without_values_are_checked_and_not_run() -> None:
    network = TorchNetwork(nn.Conv2d(1, 1, 3, device="meta"), name="net")
    assert network.geometry.verdict == "safe"
    with pytest.raises(ModelError, match="net has no values for its weights \\(weight"):
        _ = network.fingerprint


def test_a_factory_that_ends_the_program_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ends_here.py").write_text("def make():\n    raise SystemExit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match="failed with no arguments: SystemExit: 0"):
        load_network("ends_here:make")
