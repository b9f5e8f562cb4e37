"""The layer that a closed-form fit makes: weights of their own at every place.

References
----------
Birodkar, V., Mobahi, H., Krishnan, D., Bengio, S. (2019). A Closed-Form Learned Pooling for Deep
Classification Networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ClosedFormPool"]


class ClosedFormPool(nn.Module):
    """A pooling with its own weights at every output place, for maps of one size.

    Class: location-dependent. A shift of the input meets other weights, whatever its length, so
    a network that holds this layer can never be tiled: run it on whole inputs of its size.

    Parameters
    ----------
    pooling
        ``(components, output places, places)``, places row by row.
    shape, output_shape
        Sizes per axis before and after.
    mean
        Per channel, taken off before and put back after; one number for all, if it has length 1.
        It differs from plain pooling as far as the weights of a place do not sum to 1.

    Raises
    ------
    ValueError
        If the sizes do not fit the weights.
    """

    pooling: Tensor
    mean: Tensor

    def __init__(
        self,
        pooling: Tensor,
        shape: Sequence[int],
        output_shape: Sequence[int],
        mean: Tensor,
    ) -> None:
        super().__init__()
        self.shape, self.output_shape = tuple(shape), tuple(output_shape)
        wanted = (math.prod(self.output_shape), math.prod(self.shape))
        divides = len(self.shape) == len(self.output_shape) in (2, 3) and not any(
            n % o for n, o in zip(self.shape, self.output_shape, strict=True)
        )
        if pooling.dim() != 3 or tuple(pooling.shape[1:]) != wanted or not divides:
            raise ValueError(
                f"pooling of shape {tuple(pooling.shape)} does not bring {self.shape} places to "
                f"{self.output_shape}; give (components, *{wanted}), and sizes that divide"
            )
        self.register_buffer("pooling", pooling)
        self.register_buffer("mean", mean)

    def lattice_geometry(self) -> dict[str, Any]:
        """Why no tiles, and what it would be if one set of weights pooled every place."""
        scales = [n // o for n, o in zip(self.shape, self.output_shape, strict=True)]
        return {
            "axes": [{"stride": s, "support": [[0, s - 1]]} for s in scales],
            "breaks": [
                {
                    "reason": "its weights differ from place to place, so that a result depends on "
                    "where in the input it lies, and it takes maps of "
                    f"{' x '.join(map(str, self.shape))} places only",
                    "fix": "use it in networks that see whole inputs of one size, such as "
                    "classifiers; to segment by tiles, pool with one set of weights for all places",
                }
            ],
        }

    def forward(self, x: Tensor) -> Tensor:
        """Pool.

        Parameters
        ----------
        x
            ``(b, c, *shape)``.

        Returns
        -------
        Tensor
            ``(b, components * c, *output_shape)``: all channels by the first weights, then by the
            second.

        Raises
        ------
        ValueError
            If the input has another size, or other channels than were fitted.
        """
        if tuple(x.shape[2:]) != self.shape or len(self.mean) not in (1, x.shape[1]):
            raise ValueError(
                f"an input of shape {tuple(x.shape)} does not fit this pooling, which was fitted "
                f"to (b, {len(self.mean)}, {', '.join(map(str, self.shape))}); give maps of that "
                "size, or fit it anew"
            )
        mean = self.mean.to(x.dtype)[:, None]
        flat = x.flatten(2) - mean
        made = torch.einsum("emn,bcn->becm", self.pooling.to(x.dtype), flat)
        made = made.to(x.dtype) + mean
        return made.reshape(len(x), len(self.pooling) * x.shape[1], *self.output_shape)
