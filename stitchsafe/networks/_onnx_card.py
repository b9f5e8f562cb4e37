"""A model's configuration inside an ONNX file, as one entry of its metadata.

With it the file alone says what a model folder says: how intensities are scaled, what the outputs
are, how labels are made of them, and in what tiles. The entry is data, read as strictly as a
``config.yaml``; other programs pass over it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import ValidationError

from stitchsafe.errors import ModelError
from stitchsafe.networks._config import ModelConfig, first_problem

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["KEY", "embed_card", "embedded_card"]

KEY = "stitchsafe-model"
"""Of the entry."""


def embed_card(model: ModelProto, config: ModelConfig) -> None:
    """Put a configuration into a graph, in place of one that is there.

    The graph is the network, and applies its activations itself: neither is in the entry.
    """
    outputs = tuple(each.model_copy(update={"activation": "none"}) for each in config.outputs)
    told = config.model_copy(update={"network": None, "outputs": outputs})
    entries = [each for each in model.metadata_props if each.key != KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(entries)
    content = told.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    model.metadata_props.add(key=KEY, value=json.dumps({**content, "format": told.format}))


def embedded_card(model: ModelProto, origin: object) -> ModelConfig | None:
    """The configuration that a graph brings along, if it does.

    Raises
    ------
    ModelError
        If the entry is not one.
    """
    for entry in model.metadata_props:
        if entry.key == KEY:
            try:
                found = ModelConfig.model_validate(json.loads(entry.value))
                if any(output.postprocessing or output.finishing for output in found.outputs):
                    raise ValueError("steps after an output, which graphs do themselves")
                return found
            except ValidationError as error:
                reason = first_problem(error, [])
            except (ValueError, RecursionError) as error:
                reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"{origin} says of itself under {KEY!r} what is no model's configuration "
                f"({reason}); export it again"
            )
    return None
