"""Reading an ONNX file that nobody vouches for.

An ONNX graph is data, and onnxruntime executes only operators that it brings along itself. What
remains to be watched is where a file points to: weights in further files are taken from the
model's own folder only, and operators of unknown domains would need somebody's library.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

from stitchsafe.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

__all__ = ["LARGEST", "OnnxFile", "graphs_of", "nodes_of", "read_onnx", "tensors_of"]

LARGEST = 2**31 - 1
"""Bytes that a protocol buffer may have."""

ZIPPED = ".czann"
_MEMBER = "model.model"
_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
# These take their content from a file or a library that they name.
_FOREIGN = {"EPContext", "PythonOp", "PythonOpGrad"}


@dataclass(frozen=True)
class OnnxFile:
    """A model that was read and checked, weights in further files left where they are.

    Parameters
    ----------
    path
        Where it lies.
    model
        Its content.
    source
        What onnxruntime loads: the bytes that were read, so that nothing changes in between, or the
        path where weights lie in further files.
    digest
        SHA-256 of the model and of all weights in further files.
    """

    path: Path
    model: ModelProto
    source: str | bytes
    digest: str


def read_onnx(path: Path) -> OnnxFile:
    """Read and check an ``.onnx`` file, or the one inside a ``.czann`` archive.

    Raises
    ------
    ModelError
        If it is damaged, needs what is not there, or points out of its folder.
    MissingExtraError
        If the package onnx is not installed.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise MissingExtraError("onnx", "onnx") from error
    zipped = path.suffix.lower() == ZIPPED
    content = _member(path) if zipped else _bytes(path)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ModelError(
            f"{path} is not an ONNX model, or is truncated ({_line(error)}); export or download "
            "it again"
        ) from error
    if not model.graph.node or not model.graph.output or not model.opset_import:
        raise ModelError(
            f"{path} is not an ONNX model, or is truncated: it has no operators, outputs or opset; "
            "export or download it again"
        )
    _check_domains(path, model)
    digest = hashlib.sha256(content)
    external = list(_external(model))
    if external and zipped:
        raise ModelError(
            f"{path} keeps weights outside the archive (tensor {external[0].name!r}), which is not "
            "allowed; pack a model that holds its weights"
        )
    for place in sorted({_located(path, tensor) for tensor in external}):
        digest.update(_hashed(place))
    try:
        onnx.checker.check_model(str(path) if external else content)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{path} is not a valid ONNX model ({_line(error)}); export it again with an opset up "
            f"to {onnx.defs.onnx_opset_version()}"
        ) from error
    return OnnxFile(path, model, str(path) if external else content, digest.hexdigest())


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST:
            raise ModelError(
                f"{path} has {path.stat().st_size} bytes, and an ONNX file may have {LARGEST}; "
                "keep its weights as external data in the same folder"
            )
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); check the path") from error


def _member(path: Path) -> bytes:
    """The model inside an archive, read into memory: nothing is unpacked to the disk."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo(_MEMBER).file_size
            if size > LARGEST:
                raise ModelError(
                    f"{path} holds a model of {size} bytes, and an ONNX file may have {LARGEST}; "
                    "give a smaller one"
                )
            with archive.open(_MEMBER) as member:
                return member.read(size)
    except KeyError as error:
        raise ModelError(
            f"{path} holds no {_MEMBER}, where its ONNX model should be; export it again"
        ) from error
    except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, RuntimeError) as error:
        raise ModelError(
            f"{path} is not an archive that can be read ({_line(error)}); export or download it "
            "again"
        ) from error
    except NotImplementedError as error:
        raise ModelError(
            f"{path} is packed in a way that is not known ({_line(error)}); pack it by deflate"
        ) from error


def _check_domains(path: Path, model: ModelProto) -> None:
    own = {(f.domain, f.name) for f in model.functions}
    for node in nodes_of(model):
        if (node.domain, node.op_type) in own:
            continue
        if node.domain not in _DOMAINS or node.op_type in _FOREIGN:
            raise ModelError(
                f"{path} needs the operator {node.domain or 'ai.onnx'}:{node.op_type} (node "
                f"{node.name or node.output[0]!r}), which comes from outside onnxruntime; export "
                "it with standard operators"
            )


def nodes_of(model: ModelProto) -> Iterator[NodeProto]:
    """All nodes, with those inside functions and inside other nodes."""
    yield from _inner(model.graph.node)
    for function in model.functions:
        yield from _inner(function.node)


def graphs_of(model: ModelProto) -> Iterator[GraphProto]:
    """The graph, and those that nodes hold."""
    yield model.graph
    for node in nodes_of(model):
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs


def _inner(nodes: object) -> Iterator[NodeProto]:
    """Nodes and, recursively, those in the graphs that they hold."""
    for node in nodes:  # type: ignore[attr-defined]
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _inner(graph.node)


def _external(model: ModelProto) -> Iterator[TensorProto]:
    """All tensors whose values lie in another file."""
    from onnx import TensorProto

    for tensor in tensors_of(model):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            yield tensor


def tensors_of(model: ModelProto) -> Iterator[TensorProto]:
    """All tensors that are stored in it, weights and constants."""
    yield from _stored(model.graph)
    for function in model.functions:
        yield from _attached(function.node)


def _stored(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _attached(graph.node)


def _attached(nodes: object) -> Iterator[TensorProto]:
    for node in nodes:  # type: ignore[attr-defined]
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for graph in (attribute.g, *attribute.graphs):
                yield from _stored(graph)


def _located(path: Path, tensor: TensorProto) -> Path:
    """The file of an external tensor, after all that could lead out of the folder was refused."""
    entries: dict[str, str] = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    what = f"{path} keeps the weights {tensor.name!r} in {location!r}"
    parts = PureWindowsPath(location)  # splits at both kinds of slash
    if not location or "\0" in location or parts.anchor or ".." in parts.parts:
        raise ModelError(
            f"{what}, which is not a place inside its own folder; save it with external data "
            "beside the model"
        )
    folder = path.parent.resolve()
    place: Path = (folder / location).resolve()
    if not place.is_relative_to(folder):
        raise ModelError(
            f"{what}, which links to {place} outside its folder; copy that file beside the model"
        )
    if not place.is_file():
        raise ModelError(f"{what}, and there is no such file; put it beside the model")
    try:
        begin, length = int(entries.get("offset", 0)), int(entries.get("length", 0))
    except ValueError as error:
        raise ModelError(f"{what} at {entries!r}, which is no number; export it again") from error
    size = place.stat().st_size
    if begin < 0 or length < 0 or begin + length > size:
        raise ModelError(
            f"{what} at {begin} to {begin + length}, and that file has {size} bytes: it is "
            "truncated or another model's; export or download it again"
        )
    return place


def _hashed(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
