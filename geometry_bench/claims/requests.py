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
FEWEST = 4
"""Requests of a class, so that each half of a held-out split keeps one when another is left out."""

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
            GeometryBenchError: a class has too few requests, or both are the same set.
        """
        for name, requests in (("safe", safe), ("harmful", harmful)):
            if len(requests) < FEWEST:
                raise GeometryBenchError(
                    f"The {name} class ({requests.name}) has {len(requests)} requests: at least {FEWEST} are needed, since "
                    "intervals leave some out; add requests, or draw more with --requests."
                )
        if safe.hash == harmful.hash:
            raise GeometryBenchError(
                f"The safe and the harmful class are the same requests ({safe.name} and {harmful.name}): name two sets."
            )
        drawn = [*safe.requests, *harmful.requests]
        return cls(
            labels=np.repeat([False, True], [len(safe), len(harmful)]),
            topics=(*safe.topics, *harmful.topics),
            ids=tuple(request.id for request in drawn),
            partners=tuple(request.partner for request in drawn),
            **more,
        )

    def without_each(self, values: Sequence[float | None] | Array) -> Units:
        """The values (topics,) without each topic."""
        return Units.of("topic", [str(topic) for topic in dict.fromkeys(self.topics)], values)

    @property
    def exchangeable(self) -> tuple[str, ...]:
        """One label a prompt: within a label, class could be swapped if class did not matter.

        Partners share most of their wording, so they are what is swapped. A prompt whose partner was not drawn is swapped
        with others of its topic, and one without a topic with all others of that kind.
        """
        harmful = {name for name, flag in zip(self.ids, self.labels, strict=True) if flag}
        claimed = {partner for partner, flag in zip(self.partners, self.labels, strict=True) if not flag}
        rows = zip(self.ids, self.partners, self.topics, self.labels, strict=True)
        pairs = [name if flag and name in claimed else partner if not flag else None for name, partner, _, flag in rows]
        return tuple(
            f"pair {pair}" if pair in harmful else "no topic" if topic == name else f"topic {topic}"
            for pair, topic, name in zip(pairs, self.topics, self.ids, strict=True)
        )


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
