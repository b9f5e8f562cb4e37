"""Pooling learned in closed form (Birodkar et al., 2019): one set of weights per output place.

Each output place m pools all N input places with its own weights p, shared by all channels: those
that separate the classes best, while they stay near their place. With the class means of feature
maps X (N places, C channels),

    A = sum_q (mean_q - mean)(mean_q - mean)^T               between classes (Eq. 11)
    B = sum_q mean over k in q of (X_k - mean_q)(X_k - mean_q)^T   within classes (Eq. 12)
    C_m = diag ||coord(n) - s coord(m)||^2                        distance from the place (3.4)

p solves ``A p = mu (B + alpha C_m) p`` for the largest ``mu``; without C it is the ratio Sb / Sw
that p reaches. (The paper's lambda is ``-mu``, and a fixed ``alpha`` stands for the penalty
``rho = alpha mu``.) The problem is symmetric, so it is solved as such, for the top eigenvectors
alone: nothing is inverted. C has a zero where a place is its own centre and B is only
semi-definite, so a small multiple of the identity is added.

Where the paper leaves it open or contradicts itself:

* ``mean`` of A is the mean of the class means, as in Algorithm 1 (``centre="classes"``), or that
  of all samples, as in Eq. 7 and 11 (``centre="samples"``). They agree for balanced classes.
* Feature maps are normalised per channel by the mean f and the variance v of all samples and
  places. What was divided by ``sqrt(v)`` is multiplied by it (not by v), which for a linear pooling
  leaves ``P (x - f) + f``: v matters for the fit alone.
* Eigenvectors have no sign. It is chosen so that the weights of a place sum to 0 or more.
* Coordinates begin at 1, as in the paper: an output place's centre is the last of its s places.

References
----------
Birodkar, V., Mobahi, H., Krishnan, D., Bengio, S. (2019). A Closed-Form Learned Pooling for Deep
Classification Networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stitchsafe.nn._closed_form_pool import ClosedFormPool

__all__ = ["ClosedFormFit"]

Array = npt.NDArray[np.float64]
Norm = Literal["l1", "l2"]
Centre = Literal["classes", "samples"]

_AT_ONCE = 1 << 24
"""Elements of feature maps that are brought to float64 at one time."""


@dataclass
class _Moments:
    """Count, mean and sum of squares about it; batches merge without loss of digits."""

    count: int
    mean: Array
    scatter: Array

    def merge(self, other: _Moments, outer: bool) -> None:
        total = self.count + other.count
        delta = other.mean - self.mean
        share = self.count * other.count / total
        self.scatter += other.scatter + share * (delta @ delta.T if outer else delta**2)
        self.mean += delta * (other.count / total)
        self.count = total


class ClosedFormFit:
    """Algorithm 1 as an estimator that takes its samples in batches.

    Normalising by channels needs their statistics first, so there are two passes:
    :meth:`fit_batches` makes both over what can be iterated twice; else call :meth:`observe` for
    all batches, then :meth:`partial_fit` for all, then :meth:`solve`. All sums are of float64, and
    one matrix of places by places is held for each class.

    Parameters
    ----------
    scale
        Places per output place, s: one number, or one per axis.
    alpha
        Penalty for weights far from their place; the paper's best are 5 to 65.
    components
        Top eigenvectors per place; with 2 the channels are doubled.
    norm
        Weights of a place are divided by the sum of their absolutes, or by their length.
    centre
        The mean of A: that of class means (Algorithm 1), or of samples (Eq. 7).
    normalise
        Whether channels are normalised first.
    max_per_class
        Further samples of a class are left out of A and B.
    epsilon
        What is added to the diagonal, as a share of its mean.

    Attributes
    ----------
    pooling_ : numpy.ndarray
        (components, output places, places), row by row.
    eigenvalues_ : numpy.ndarray
        (components, output places), mu, largest first.
    mean_, variance_ : numpy.ndarray
        Per channel.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    pooling_: Array
    eigenvalues_: Array

    def __init__(
        self,
        *,
        scale: int | Sequence[int] = 2,
        alpha: float = 25.0,
        components: int = 2,
        norm: Norm = "l2",
        centre: Centre = "classes",
        normalise: bool = True,
        max_per_class: int = 10_000,
        epsilon: float = 1e-10,
    ) -> None:
        if norm not in ("l1", "l2"):
            raise ValueError(f"norm is {norm!r}; choose 'l1' or 'l2'")
        if centre not in ("classes", "samples"):
            raise ValueError(f"centre is {centre!r}; choose 'classes' or 'samples'")
        if not (alpha >= 0 and epsilon > 0) or min(components, max_per_class) < 1:
            raise ValueError(
                f"alpha {alpha} must be at least 0, epsilon {epsilon} above 0, and components "
                f"{components} and max_per_class {max_per_class} at least 1; change what is not"
            )
        self.scale, self.alpha, self.components = scale, alpha, components
        self.norm, self.centre, self.normalise = norm, centre, normalise
        self.max_per_class, self.epsilon = max_per_class, epsilon
        self.shape: tuple[int, ...] = ()
        self._channels: _Moments | None = None
        self._classes: dict[int, _Moments] = {}

    # passes over samples

    def fit(self, features: Any, labels: Any) -> ClosedFormFit:
        """Fit to feature maps ``(b, c, *places)`` and labels ``(b,)`` that are all at hand."""
        return self.fit_batches([(features, labels)])

    def fit_batches(self, batches: Iterable[tuple[Any, Any]]) -> ClosedFormFit:
        """Forget what was seen, observe and take up all batches, and solve.

        Parameters
        ----------
        batches
            (feature maps, labels), as of :meth:`partial_fit`; iterated twice, so a list or a
            loader that does not shuffle or augment, not a generator.
        """
        if iter(batches) is batches:
            raise ValueError(
                "batches can be iterated only once, and are needed twice; give a list or a loader, "
                "or call observe(), partial_fit() and solve()"
            )
        self.shape, self._channels, self._classes = (), None, {}
        if self.normalise:
            for features, _ in batches:
                self.observe(features)
        for features, labels in batches:
            self.partial_fit(features, labels)
        return self.solve()

    def observe(self, features: Any) -> ClosedFormFit:
        """Take up a batch for the mean and variance of channels.

        Parameters
        ----------
        features
            ``(b, c, *places)``, a tensor or an array.
        """
        if self._classes:
            raise ValueError(
                "samples were already taken up with other statistics of their channels; observe "
                "all batches first, or begin anew"
            )
        for maps in self._checked(features):
            rows = np.moveaxis(maps, 1, 0).reshape(maps.shape[1], -1)
            mean = rows.mean(axis=1)
            own = _Moments(rows.shape[1], mean, ((rows - mean[:, None]) ** 2).sum(axis=1))
            if self._channels is None:
                self._channels = own
            else:
                self._same_channels(maps)
                self._channels.merge(own, outer=False)
        return self

    def partial_fit(self, features: Any, labels: Any) -> ClosedFormFit:
        """Take up a batch for the matrices A and B.

        Parameters
        ----------
        features
            ``(b, c, *places)``, a tensor or an array.
        labels
            ``(b,)`` whole numbers.
        """
        labels = _array(labels)
        if labels.shape != (len(features),) or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"labels of shape {labels.shape} and type {labels.dtype} do not name the classes "
                f"of {len(features)} samples; give one whole number for each"
            )
        if self.normalise and self._channels is None:
            raise ValueError(
                "channels are to be normalised, and none were observed; call observe() for all "
                "batches first, or set normalise=False"
            )
        start = 0
        for maps in self._checked(features):
            if self._classes or self._channels is not None:
                self._same_channels(maps)
            own = labels[start : start + len(maps)]
            start += len(maps)
            rows = self._normalised(maps)
            for label in np.unique(own):
                self._take(int(label), rows[own == label])
        return self

    def _take(self, label: int, rows: Array) -> None:
        known = self._classes.get(label)
        rows = rows[: self.max_per_class - (known.count if known else 0)]
        if not len(rows):
            return
        mean = rows.mean(axis=0)
        spread = (rows - mean).transpose(1, 0, 2).reshape(rows.shape[1], -1)
        batch = _Moments(len(rows), mean, spread @ spread.T)
        if known is None:
            self._classes[label] = batch
        else:
            known.merge(batch, outer=True)

    def _checked(self, features: Any) -> Iterable[Array]:
        """Feature maps in float64, part by part."""
        if getattr(features, "ndim", 0) not in (4, 5) or not len(features):
            raise ValueError(
                f"feature maps of shape {tuple(getattr(features, 'shape', ()))} are not a batch of "
                "2-D or 3-D maps; give (b, c, *places)"
            )
        shape = tuple(int(n) for n in features.shape[2:])
        if self.shape not in ((), shape):
            raise ValueError(
                f"feature maps of {shape} places do not fit those before, of {self.shape}; this "
                "pooling has weights for every place, so give maps of one size"
            )
        self._scales(shape)
        self.shape = shape
        every = max(1, _AT_ONCE // math.prod(features.shape[1:]))
        for start in range(0, len(features), every):
            part = np.asarray(_array(features[start : start + every]), np.float64)
            if not np.isfinite(part).all():
                raise ValueError(
                    "feature maps hold NaN or infinite values; mend the network or its input first"
                )
            yield part

    def _same_channels(self, maps: Array) -> None:
        known = self._channels or next(iter(self._classes.values()))
        count = known.mean.shape[-1]
        if maps.shape[1] != count:
            raise ValueError(
                f"feature maps of {maps.shape[1]} channels do not fit those before, of {count}; "
                "give maps of one layer"
            )

    def _normalised(self, maps: Array) -> Array:
        """(b, places, channels)."""
        rows = maps.reshape(*maps.shape[:2], -1).transpose(0, 2, 1)
        if not self.normalise:
            return rows
        deviation = np.sqrt(self.variance_)
        return (rows - self.mean_) / np.where(deviation > 0, deviation, 1)

    # what was found

    @property
    def mean_(self) -> Array:
        if self._channels is None:
            raise ValueError("no channels were observed; call fit() or observe() first")
        return self._channels.mean

    @property
    def variance_(self) -> Array:
        if self._channels is None:
            raise ValueError("no channels were observed; call fit() or observe() first")
        found: Array = self._channels.scatter / self._channels.count
        return found

    def matrices(self) -> tuple[Array, Array]:
        """A and B of the samples so far.

        Raises
        ------
        ValueError
            If fewer than two classes were seen.
        """
        if len(self._classes) < 2:
            raise ValueError(
                f"samples of {len(self._classes)} classes were seen, and at least 2 are needed to "
                "tell them apart; give samples of more classes"
            )
        every = [self._classes[label] for label in sorted(self._classes)]
        means = np.stack([each.mean for each in every])
        weights = [each.count for each in every] if self.centre == "samples" else None
        spread = means - np.average(means, axis=0, weights=weights)
        flat = spread.transpose(1, 0, 2).reshape(spread.shape[1], -1)
        within = sum((each.scatter / each.count for each in every), np.zeros_like(every[0].scatter))
        return flat @ flat.T, within

    def penalty(self, place: Sequence[int]) -> Array:
        """Diagonal of C for an output place (0 the first): squared distances from its centre."""
        axes = zip(np.indices(self.shape), self._scales(self.shape), place, strict=True)
        return sum(
            ((own + 1 - s * (at + 1)) ** 2.0 for own, s, at in axes), np.zeros(self.shape)
        ).ravel()

    def solve(self) -> ClosedFormFit:
        """Find the weights of every output place from the samples so far.

        Raises
        ------
        ValueError
            If fewer than two classes were seen, or more components are asked for than places.
        """
        from scipy.linalg import eigh

        between, within = self.matrices()
        count, wanted = len(within), self.components
        if wanted > count:
            raise ValueError(
                f"{wanted} components are asked for, and there are {count} places; ask for fewer"
            )
        outputs = self.output_shape
        self.pooling_ = np.empty((wanted, math.prod(outputs), count))
        self.eigenvalues_ = np.empty(self.pooling_.shape[:2])
        for m, place in enumerate(np.ndindex(*outputs)):
            diagonal = within.diagonal() + self.alpha * self.penalty(place)
            metric = within.copy()
            np.fill_diagonal(metric, diagonal + self.epsilon * (diagonal.mean() or 1.0))
            values, vectors = eigh(between, metric, subset_by_index=[count - wanted, count - 1])
            self.eigenvalues_[:, m] = values[::-1]
            self.pooling_[:, m] = _signed(vectors.T[::-1], 1 if self.norm == "l1" else 2)
        return self

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Output places per axis."""
        return tuple(n // s for n, s in zip(self.shape, self._scales(self.shape), strict=True))

    def module(self) -> ClosedFormPool:
        """The fitted pooling as a layer, of the default type of torch."""
        if not hasattr(self, "pooling_"):
            raise ValueError("nothing was fitted yet; call fit() or solve() first")
        # Without normalisation nothing is taken off; the number of channels stays free.
        mean = torch.from_numpy(self.mean_) if self.normalise else torch.zeros(1)
        dtype = torch.get_default_dtype()
        pooling = torch.from_numpy(self.pooling_).to(dtype)
        return ClosedFormPool(pooling, self.shape, self.output_shape, mean.to(dtype))

    def _scales(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        own = self.scale
        scales = (own,) * len(shape) if isinstance(own, int) else tuple(own)
        if len(scales) != len(shape) or any(
            s < 1 or n % s for n, s in zip(shape, scales, strict=True)
        ):
            raise ValueError(
                f"scale {own} does not divide feature maps of {shape} places; give one number, or "
                "one per axis, that divides each size"
            )
        return scales


def _array(values: Any) -> npt.NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
        found: npt.NDArray[Any] = values.numpy()
        return found
    return np.asarray(values)


def _signed(rows: Array, order: int) -> Array:
    """Rows of unit norm that sum to 0 or more; where they sum to 0, the largest entry decides."""
    rows = rows / np.linalg.norm(rows, ord=order, axis=1, keepdims=True)
    sums, sizes = rows.sum(axis=1), np.abs(rows).sum(axis=1)
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)[:, 0]
    decides = np.where(np.abs(sums) > 1e-9 * sizes, sums, largest)
    signed: Array = rows * np.where(decides < 0, -1.0, 1.0)[:, None]
    return signed
