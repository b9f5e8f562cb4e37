"""Files that mean harm: each refused in one line; nothing runs, nothing is written or fetched."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import stat
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from model_files import Trap, package, small_package
from safetensors.torch import save_file

from stitchsafe.errors import ModelError
from stitchsafe.networks import load_network
from stitchsafe.nn import UNet

ARGUMENTS = {"ndim": 2, "levels": 1, "base_channels": 2, "heads": {"x": 1}}
FACTORY = "stitchsafe.nn:UNet"

_WATCHED: list[tuple[Path, list[str]]] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: what is written outside of where a test allows it, and what reaches the net."""
    if not _WATCHED:
        return
    place, seen = _WATCHED[-1]
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system"):
        seen.append(f"{event} {arguments[:2]}")
    elif event in ("os.mkdir", "os.symlink", "os.rename", "os.link"):
        path = Path.cwd() / str(arguments[1 if event in _TWO else 0])
        if not path.is_relative_to(place):
            seen.append(f"{event} {path}")
    elif event == "open" and isinstance(arguments[0], str | bytes):
        path = Path.cwd() / os.fsdecode(arguments[0])
        if (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR) and not path.is_relative_to(place):
            seen.append(f"{event} {path}")


_TWO = ("os.symlink", "os.rename", "os.link")
sys.addaudithook(_watch)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to make files in; the loader may write into its own scratch folder, and no more."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    folder = tmp_path / "here"
    folder.mkdir()
    yield folder
    # What torch keeps for its compiler is its own.
    assert [p.name for p in scratch.iterdir() if not p.name.startswith("torchinductor")] == []
    assert not (tmp_path / "ran").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b""
        for p in folder.rglob("*")
    }


def refused(here: Path, saying: str, *given: Any, **options: Any) -> None:
    before = contents(here.parent)
    seen: list[str] = []
    _WATCHED.append((here.parent / "scratch", seen))
    try:
        with pytest.raises(ModelError, match=saying) as caught:
            load_network(*given, **options)
    finally:
        _WATCHED.pop()
    assert "\n" not in str(caught.value)
    assert seen == []
    assert contents(here.parent) == before


def test_the_watch_sees(here: Path) -> None:
    """The test of the tests: a trap that is sprung leaves a folder, and is seen to."""
    seen: list[str] = []
    _WATCHED.append((here.parent / "scratch", seen))
    pickle.loads(Trap(here.parent / "ran").pickled)
    _WATCHED.pop()
    assert seen == [f"os.mkdir {here.parent / 'ran'}"]
    (here.parent / "ran").rmdir()


# Pickles


def pickles(here: Path) -> dict[str, bytes]:
    trap = Trap(here.parent / "ran")
    torch.save({"state_dict": {"weight": trap}}, here / "zip.tmp")
    torch.save({"weight": trap}, here / "old.tmp", _use_new_zipfile_serialization=False)
    found = {
        "plain": trap.pickled,
        "protocol 0": pickle.dumps(trap, protocol=0),
        "saved by torch": (here / "zip.tmp").read_bytes(),
        "saved by old torch": (here / "old.tmp").read_bytes(),
    }
    for path in here.glob("*.tmp"):
        path.unlink()
    return found


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.safetensors", "w.bin", "w"])
@pytest.mark.parametrize("form", ["plain", "protocol 0", "saved by torch", "saved by old torch"])
def test_a_pickle_as_weights(here: Path, name: str, form: str, trust: bool) -> None:
    path = here / name
    path.write_bytes(pickles(here)[form])
    options = {"weights": path, "arguments": ARGUMENTS, "trust": trust}
    refused(here, "runs code when it is loaded|holds no weights", FACTORY, **options)


@pytest.mark.parametrize("name", ["m.pth", "m.pt", "m.zip", "m.pt2", "m.safetensors", "m"])
@pytest.mark.parametrize("form", ["plain", "protocol 0", "saved by torch", "saved by old torch"])
def test_a_pickle_as_a_model(here: Path, name: str, form: str) -> None:
    path = here / name
    path.write_bytes(pickles(here)[form])
    refused(here, "pickle|holds weights alone|no known kind|damaged", path)
    refused(here, "pickle|holds weights alone|no known kind|damaged", path, trust=True)


def test_a_pickle_as_the_weights_of_a_package(here: Path) -> None:
    folder = small_package(here / "package")
    (folder / "weights.pt").write_bytes(Trap(here.parent / "ran").pickled)
    refused(here, "pickle of more than weights", folder, trust=True)
    refused(here, "--trust-model", folder)


# Zips


def zipped(here: Path, entries: dict[str, bytes], *links: str) -> Path:
    path = here / "package.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bioimageio.yaml", yaml.safe_dump(package()))
        for name, content in entries.items():
            archive.writestr(name, content)
        for name in links:
            entry = zipfile.ZipInfo(name)
            entry.create_system = 3
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, "/etc")
    return path


@pytest.mark.parametrize(
    "name",
    ["../evil.py", "a/../../evil.py", "/tmp/evil.py", "..\\evil.py", "C:/evil.py", "a/../../../x/"],
)
def test_a_zip_that_leads_out(here: Path, name: str) -> None:
    refused(here, "unpacked outside its folder", zipped(here, {name: b"x"}), trust=True)


def test_a_zip_with_a_link(here: Path) -> None:
    path = zipped(here, {}, "weights.pt")
    refused(here, "'weights.pt', which is a link", path, trust=True)


def test_a_zip_with_a_name_twice(here: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = zipped(here, {"bioimageio.yaml": b"{}"})
    refused(here, "a name twice", path)


def test_a_zip_bomb(here: Path) -> None:
    path = zipped(here, {"weights.pt": bytes(120 * 2**20)})
    assert path.stat().st_size < 2**20
    refused(here, "more than a package of its size holds", path, trust=True)
    many = zipped(here, {f"{k}.txt": b"" for k in range(10_001)})
    refused(here, "10002 files", many)


def test_a_zip_that_declares_less_than_it_holds(here: Path) -> None:
    path = zipped(here, {"weights.pt": bytes(60 * 2**20)})
    content = path.read_bytes()
    size = struct.pack("<L", 60 * 2**20)
    assert size in content
    path.write_bytes(content.replace(size, struct.pack("<L", 100)))
    refused(here, "damaged zip", path, trust=True)


def test_weights_that_swell(here: Path) -> None:
    torch.save({"weight": torch.zeros(2_000_000)}, here / "w.pth")
    with (
        zipfile.ZipFile(here / "w.pth") as source,
        zipfile.ZipFile(here / "s.pth", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    options = {"weights": here / "s.pth", "arguments": ARGUMENTS}
    refused(here, "unpacks to", FACTORY, **options)


@pytest.mark.parametrize("keep", [10, 400, -60])
def test_a_cut_zip(here: Path, keep: int) -> None:
    folder = small_package(here / "package")
    path = Path(shutil.make_archive(str(here / "package"), "zip", folder))
    path.write_bytes(path.read_bytes()[:keep])
    refused(here, "damaged zip", path, trust=True)


# YAML


@pytest.mark.parametrize("name", ["bioimageio.yaml", "rdf.yaml", "own.bioimageio.yaml"])
def test_yaml_that_makes_objects(here: Path, name: str) -> None:
    folder = here / "package"
    folder.mkdir()
    marker = here.parent / "ran"
    (folder / name).write_text(
        f"format_version: 0.5.4\nname: !!python/object/apply:os.mkdir ['{marker}']\n"
    )
    refused(here, "cannot be read as YAML", folder, trust=True)


def laughs(key: str) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for k in range(1, 30):
        lines.append(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]")
    return "\n".join([*lines, f"{key}: *a29"])


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["bioimageio.yaml", "config.yaml"])
def test_yaml_that_swells(here: Path, name: str) -> None:
    folder = here / "package"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"")
    (folder / name).write_text(f"format_version: 0.5.4\n{laughs('inputs')}\n")
    refused(here, "grows to more than", folder, trust=True)


@pytest.mark.parametrize(
    "text",
    ["a: &a [*a]", "[" * 5000, "{" * 5000 + "}" * 5000, "a: \x00", "format_version: [", "- 1"],
)
def test_yaml_that_is_none(here: Path, text: str) -> None:
    folder = here / "package"
    folder.mkdir()
    (folder / "bioimageio.yaml").write_text(text)
    refused(here, "cannot be read as YAML|nested too deeply|format version", folder, trust=True)


# Descriptions that lead elsewhere


def pointing(here: Path, source: str) -> Path:
    content = package()
    content["weights"]["pytorch_state_dict"]["source"] = source
    return small_package(here / "package", **content)


@pytest.mark.parametrize(
    "source",
    [
        "../secret.pt",
        "a/../../secret.pt",
        "/etc/passwd",
        "http://127.0.0.1:9/w.pt",
        "https://127.0.0.1:9/w.pt",
        "file:///etc/passwd",
        "C:\\w.pt",
        "..\\secret.pt",
        "",
    ],
)
def test_weights_that_lie_elsewhere(here: Path, source: str) -> None:
    torch.save({}, here / "secret.pt")
    refused(here, "lies outside the package", pointing(here, source), trust=True)


@pytest.mark.parametrize("source", ["../net.py", "http://127.0.0.1:9/net.py"])
def test_an_architecture_that_lies_elsewhere(here: Path, source: str) -> None:
    content = package()
    content["weights"]["pytorch_state_dict"]["architecture"]["source"] = source
    folder = small_package(here / "package", **content)
    (here / "net.py").write_text(f"import os\nos.mkdir({str(here.parent / 'ran')!r})\n")
    refused(here, "lies outside the package", folder, trust=True)


def test_an_onnx_file_that_lies_elsewhere(here: Path) -> None:
    content = package(weights={"onnx": {"source": "../model.onnx"}})
    refused(here, "lies outside the package", small_package(here / "package", **content))


@pytest.mark.parametrize("name", ["weights.pt", "net.py", "bioimageio.yaml"])
def test_a_link_that_leads_out_of_a_folder(here: Path, name: str) -> None:
    folder = small_package(here / "package")
    shutil.move(folder / name, here / "outside")
    (folder / name).symlink_to(here / "outside")
    refused(here, "a link that leads out of the package", folder, trust=True)


def test_a_link_to_a_folder_outside_and_one_to_itself(here: Path) -> None:
    folder = pointing(here, "inner/weights.pt")
    (here / "outside").mkdir()
    shutil.move(folder / "weights.pt", here / "outside")
    (folder / "inner").symlink_to(here / "outside", target_is_directory=True)
    refused(here, "a link that leads out of the package", folder, trust=True)
    (folder / "inner").unlink()
    (folder / "inner").symlink_to(folder / "inner")
    refused(here, "a link that leads out|absent", folder, trust=True)


def test_a_link_within_a_folder_is_sound(here: Path) -> None:
    folder = small_package(here / "package")
    (folder / "weights.pt").rename(folder / "real.pt")
    (folder / "weights.pt").symlink_to("real.pt")
    assert load_network(folder, trust=True).geometry.verdict == "safe"


def test_a_file_that_is_not_the_one_described(here: Path) -> None:
    content = package()
    content["weights"]["pytorch_state_dict"]["architecture"]["sha256"] = "0" * 64
    folder = small_package(here / "package", **content)
    refused(here, "not the file that the description states", folder, trust=True)


# Code


def trapped(here: Path) -> str:
    return f"import os\nos.mkdir({str(here.parent / 'ran')!r})\n"


def test_an_architecture_runs_with_trust_only(here: Path) -> None:
    folder = small_package(here / "package", trapped(here))
    refused(here, "--trust-model", folder)
    archive = Path(shutil.make_archive(str(here / "package"), "zip", folder))
    refused(here, "--trust-model", archive)
    with pytest.raises(ModelError, match="there is no 'make'"):
        load_network(folder, trust=True)
    assert (here.parent / "ran").exists()  # so the trap works, and trust was what held it
    (here.parent / "ran").rmdir()
    assert not (folder / "__pycache__").exists()


def test_a_description_cannot_name_installed_code_without_trust(here: Path) -> None:
    content = package()
    arguments = {"name": str(here.parent / "ran")}
    content["weights"]["pytorch_state_dict"]["architecture"] = {
        "import_from": "os", "callable": "mkdir", "kwargs": {"path": arguments["name"]},
    }  # fmt: skip
    folder = small_package(here / "package", **content)
    refused(here, "--trust-model", folder)


def test_processing_that_is_code_never_runs(here: Path) -> None:
    content = package()
    step = {"id": "custom", "callable": "f", "source": "net.py", "kwargs": {}}
    content["inputs"][0]["preprocessing"] = [step]
    folder = small_package(here / "package", trapped(here), **content)
    refused(here, "'custom' of the tensor 'raw' is no processing step", folder, trust=True)


def test_an_exported_program_is_not_touched_without_trust(here: Path) -> None:
    path = here / "model.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/archive_format", "pt2")
        archive.writestr("model/data/sample_inputs/model.pt", Trap(here.parent / "ran").pickled)
    refused(here, "add --trust-model", path)


# Safetensors


@pytest.mark.parametrize("harm", ["cut", "header", "offsets", "empty", "huge header"])
def test_damaged_safetensors(here: Path, harm: str) -> None:
    path = here / "w.safetensors"
    save_file(UNet(**ARGUMENTS).state_dict(), path)
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    if harm == "cut":
        data = data[:-100]
    elif harm == "header":
        data = data[:8] + b"x" * size + data[8 + size :]
    elif harm == "offsets":
        first = next(name for name in header if name != "__metadata__")
        header[first]["data_offsets"] = [0, 2**40]
        text = json.dumps(header).encode()
        data = struct.pack("<Q", len(text)) + text + data[8 + size :]
    elif harm == "empty":
        data = b""
    else:
        data = struct.pack("<Q", 2**62) + data[8:]
    path.write_bytes(data)
    refused(here, "holds no weights", FACTORY, weights=path, arguments=ARGUMENTS)


def test_damaged_files_of_torch(here: Path) -> None:
    path = here / "w.pth"
    torch.save(UNet(**ARGUMENTS).state_dict(), path)
    data = path.read_bytes()
    for content in (data[:200], data[:-300], b"PK" + data[2:100], b"\x80\x02}q\x00"):
        path.write_bytes(content)
        refused(here, "damaged|refused unread", FACTORY, weights=path, arguments=ARGUMENTS)
