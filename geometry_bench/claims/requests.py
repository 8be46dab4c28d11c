"""The two classes of requests as source C and its corrected variant read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from geometry_bench.activations.pooling import Pooling
from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.directions import Array
from geometry_bench.labs.memo import remembered
from geometry_bench.labs.model import Lab
from geometry_bench.labs.requirements import MEAN, MEAN_KEPT
from geometry_bench.prompts.sets import RequestSet
from geometry_bench.records.estimates import Units, Variant

SEED = 0
KEPT_AT_MOST = 0.1
"""Share of the prompts that a null may leave in their class since they have no counterpart."""

_SETS: dict[Variant, tuple[str, str]] = {
    "published": ("safe-unmatched", "unsafe"),
    "corrected": ("safe", "unsafe"),
}
"""Safe and harmful set: of different length as collected in different places, or partners of equal length."""

WRAPPED = ("jailbreak-safe", "jailbreak")
"""The corrected pair, each request in a jailbreak framing; both classes meet the same framings."""

POOLING: dict[Variant, Pooling] = {"published": MEAN, "corrected": MEAN_KEPT}


@dataclass(frozen=True)
class Labelled:
    """Prompts of both classes, safe ones first: labels (prompts,) True for harmful, one topic, id and partner each."""

    labels: NDArray[np.bool_]
    topics: tuple[str, ...]
    ids: tuple[str, ...]
    partners: tuple[str | None, ...]

    @classmethod
    def of(cls, safe: RequestSet, harmful: RequestSet, **more: Any) -> Self:
        """The two sets, one after the other.

        Raises:
            GeometryBenchError: both are the same set.
        """
        if safe.hash == harmful.hash:
            raise GeometryBenchError(
                f"The safe and the harmful class are the same requests ({safe.name} and {harmful.name}): name two sets."
            )
        drawn = [(kind, one) for kind, of in (("safe", safe), ("harmful", harmful)) for one in of.requests]
        # Row 1 of one file has nothing to do with row 1 of another.
        ids = tuple(one.id if one.topic is not None else f"{kind} {one.id}" for kind, one in drawn)
        return cls(
            labels=np.repeat([False, True], [len(safe), len(harmful)]),
            topics=tuple(one.topic if one.topic is not None else id for id, (_, one) in zip(ids, drawn, strict=True)),
            ids=ids,
            partners=tuple(one.partner for _, one in drawn),
            **more,
        )

    def without_each(self, values: Sequence[float | None] | Array) -> Units:
        """The values (topics,) without each topic."""
        return Units.of("topic", [str(topic) for topic in dict.fromkeys(self.topics)], values)

    @property
    def exchangeable(self) -> tuple[str, ...]:
        """One stratum a prompt: within it, class could be swapped if class did not matter.

        Partners share most of their wording, so they are what is swapped; prompts without a partner are swapped within their
        topic. All that have no counterpart of the other class there are one stratum. Where even that is of one class, so
        that more than ``KEPT_AT_MOST`` of the prompts could never change theirs, coarser strata are taken: topics, or all.
        """
        harmful = {name for name, flag in zip(self.ids, self.labels, strict=True) if flag}
        claimed = {partner for partner, flag in zip(self.partners, self.labels, strict=True) if not flag}
        rows = zip(self.ids, self.partners, self.labels, strict=True)
        pairs = [name if flag and name in claimed else partner if not flag else None for name, partner, flag in rows]
        topics = [
            "no topic" if topic == name else f"topic {topic}" for topic, name in zip(self.topics, self.ids, strict=True)
        ]
        finest = [f"pair {pair}" if pair in harmful else topic for pair, topic in zip(pairs, topics, strict=True)]
        found = (self._strata(names) for names in (finest, topics))
        return next(filter(None, found), ("all",) * len(self.ids))

    def _strata(self, names: Sequence[str]) -> tuple[str, ...] | None:
        """The names that both classes have, and one for the rest; None where too much of that is of one class."""
        both = set.intersection(*({n for n, f in zip(names, self.labels, strict=True) if f == flag} for flag in (0, 1)))
        rest = np.array([name not in both for name in names])
        mixed = len(set(self.labels[rest])) != 1
        if not mixed and rest.mean() > KEPT_AT_MOST:
            return None
        return tuple(name if name in both else "the rest" for name in names)

    @property
    def permutation(self) -> str:
        """In words, how labels are permuted."""
        strata = set(self.exchangeable)
        if all(name.startswith("pair ") for name in strata):
            return "swapped between partners"
        return "permuted" if len(strata) == 1 else "permuted in strata"


@dataclass(frozen=True)
class Classes(Labelled):
    """Both classes with their states (prompts, layers, width) and lengths in tokens."""

    states: Array
    lengths: NDArray[np.int64]

    def facts(self) -> dict[str, float | None]:
        """Sizes of the classes and their mean lengths in tokens."""
        return {
            "safe_prompts": float((~self.labels).sum()),
            "harmful_prompts": float(self.labels.sum()),
            "safe_tokens": float(self.lengths[~self.labels].mean()),
            "harmful_tokens": float(self.lengths[self.labels].mean()),
        }


def sets_of(variant: Variant) -> tuple[str, str]:
    """Names of the safe and the harmful set of a variant."""
    return _SETS[variant]


def classes(lab: Lab, variant: Variant, pooling: Pooling | None = None, sets: tuple[str, str] | None = None) -> Classes:
    """The two classes of a variant, or of other ``sets``, in its pooling by default."""
    return _classes(lab, sets or sets_of(variant), pooling or POOLING[variant])


@remembered
def _classes(lab: Lab, names: tuple[str, str], pooling: Pooling) -> Classes:
    safe, harmful = (lab.requests(name, rendering="text", poolings=(pooling,)) for name in names)
    return Classes.of(
        safe.requests,
        harmful.requests,
        states=np.concatenate([safe.states[pooling], harmful.states[pooling]]),
        lengths=np.array([*safe.lengths, *harmful.lengths], dtype=np.int64),
    )
