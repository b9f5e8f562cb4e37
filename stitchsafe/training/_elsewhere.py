"""The verb export for trained networks: checked, compared, then written together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from stitchsafe.engine import Events, Export, Silent, arriving, export_targets, refuse_place
from stitchsafe.errors import InputError, ModelError, StoreError
from stitchsafe.networks import TorchNetwork, load_network, models_root
from stitchsafe.training._onnx import Parity, onnx_of, require_exporters
from stitchsafe.training._package import INSTEAD, pack, refuse_unpackable
from stitchsafe.volumes import is_url

__all__ = ["NetworkExport", "NetworkForm", "export_network", "is_network"]

NetworkForm = Literal["onnx", "bioimageio"]
"""What a trained network can be exported to."""

_ENDINGS = {"onnx": ".onnx", "bioimageio": ".bioimageio.zip"}
_SUFFIXES = {"onnx": ".onnx", "bioimageio": ".zip"}
"""By which predict, and others, know such a file."""


@dataclass(frozen=True)
class NetworkExport(Export):
    """What export wrote of a network.

    Parameters
    ----------
    parity
        How far the exported network is from the one in the folder.
    refused
        Why there is none of a form that was asked for, by form.
    """

    parity: Parity
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether all that was asked for was written."""
        return not self.refused

    def to_json(self) -> dict[str, Any]:
        told = {"parity": self.parity.to_json(), "refused": self.refused}
        return {**super().to_json(), **told}

    def describe(self) -> str:
        refused = [f"no {form}: {reason}" for form, reason in self.refused.items()]
        return "\n".join([super().describe(), str(self.parity), *refused])


def is_network(source: str | Path) -> bool:
    """Whether this is a model folder, the run of a training, or the name of a bundled model."""
    if is_url(str(source)):
        return False
    folder = Path(source).expanduser()
    if not folder.exists():
        return folder.parent == Path() and (models_root() / folder / "config.yaml").is_file()
    return any((folder / name).is_file() for name in ("config.yaml", "train.yaml"))


def export_network(
    source: str | Path,
    to: Sequence[NetworkForm],
    out: str | Path | None = None,
    *,
    overwrite: bool = False,
    trust_model: bool = False,
    events: Events | None = None,
) -> NetworkExport:
    """Write a trained network for other programs, and show that it is the same network.

    Parameters
    ----------
    source
        A model folder, such as that of a training's run, or the name of a bundled model.
    to
        ``onnx``: one file that takes every valid size, with the card inside. ``bioimageio``: a
        package of format 0.5 around such a file.
    out
        A folder for the files, or of one form the file; by default they lie beside the folder.
    overwrite
        Replace files that are there.
    trust_model
        Whether code that the folder names may run.
    events
        Told of progress.

    Returns
    -------
    NetworkExport
        Of a network that becomes no package, where ONNX was asked for too, that; and the reason.

    Raises
    ------
    InputError
        If the network cannot be loaded, or not be exported, or a file cannot be written; none was.
    MissingExtraError
        If what exporting needs is not installed.
    """
    began, events = time.monotonic(), events or Silent()
    forms: list[str] = list(dict.fromkeys(to))
    for form in forms:
        if form not in get_args(NetworkForm):
            raise InputError(
                f"a trained network has no form {form!r}; it can be exported to "
                f"{', '.join(get_args(NetworkForm))}"
            )
    files = _targets(Path(source).expanduser(), forms, out)

    def admit(path: Path) -> None:
        refuse_place(path, overwrite=overwrite)

    for path in files.values():
        admit(path)
    require_exporters(packages="bioimageio" in forms)
    network = _loaded(source, trust=trust_model)
    _refuse_consensus(network)
    refused: dict[str, str] = {}
    with _noting(refused, forms):
        if "bioimageio" in forms:
            refuse_unpackable(network)
    for each in network.geometry.breaks:
        events.say(f"NOT exact: tiles of this network cannot be stitched: {each}")
    events.say(f"exporting {network.name}, which takes a while")
    model, parity = onnx_of(network)
    contents = {"onnx": model.SerializeToString()}
    with _noting(refused, forms):
        if "bioimageio" in forms and not refused:
            contents["bioimageio"] = pack(network, model, _card(source, network), events)
    files = {form: path for form, path in files.items() if form in contents}
    with arriving(list(files.values()), admit) as opened:
        for form, file in zip(files, opened, strict=True):
            file.write(contents[form])
    return NetworkExport(files, time.monotonic() - began, parity, refused)


@contextmanager
def _noting(refused: dict[str, str], forms: Sequence[str]) -> Iterator[None]:
    """Note why there is no package, if it is not all that was asked for."""
    try:
        yield
    except ModelError as error:
        if "onnx" not in forms:
            raise
        refused["bioimageio"] = str(error).removesuffix(INSTEAD)


def _refuse_consensus(network: TorchNetwork) -> None:
    """Refuse a network that decides something for the whole volume.

    Raises
    ------
    ModelError
        A graph has nobody to tell it what was decided: given a tile, it would decide for that.
    """
    for layer, what in network.geometry.consensus:
        raise ModelError(
            f"{network.name} cannot be exported: what its layer {layer} does is decided once for "
            f"the whole volume ({what}), and a graph that is given a tile would decide for the "
            "tile; give predict its folder, or train with another downsampling"
        )


def _targets(folder: Path, forms: Sequence[str], out: str | Path | None) -> dict[str, Path]:
    here = folder.absolute()
    files = export_targets(here.name, here.parent, {form: _ENDINGS[form] for form in forms}, out)
    for form, path in files.items():
        if path.suffix.lower() != _SUFFIXES[form]:
            raise StoreError(
                f"{path} would not be known as {form}; give a folder, or a name that ends in "
                f"{_SUFFIXES[form]}"
            )
    return files


def _loaded(source: str | Path, *, trust: bool) -> TorchNetwork:
    """The network of a folder.

    Raises
    ------
    ModelError
        If it is not there yet, or does more than a graph can.
    """
    folder = Path(source).expanduser()
    if (folder / "train.yaml").is_file() and not (folder / "weights.safetensors").is_file():
        raise ModelError(
            f"{source} is a training that has no weights yet; let stitchsafe train go on to its "
            "first checkpoint"
        )
    network = load_network(str(folder), trust=trust)
    if not isinstance(network, TorchNetwork) or network.config is None:
        raise ModelError(f"{source} is no model folder; export one that stitchsafe train made")
    config = network.config
    if len(config.input.tensors) > 1 or any(
        output.postprocessing or output.finishing for output in config.outputs
    ):
        raise ModelError(
            f"{network.name} has several inputs, or steps that follow its outputs, which are not "
            "exported; leave them out of its config.yaml, or give predict the folder"
        )
    return network


def _card(source: str | Path, network: TorchNetwork) -> str:
    """The folder's card, without pictures that would not come along."""
    folder = Path(source).expanduser()
    card = (folder if folder.exists() else models_root() / folder) / "card.md"
    if not card.is_file():
        return f"# {network.name}\n"
    lines = card.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("!["))
