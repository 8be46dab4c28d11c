"""What a claim asks its lab for, as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from geometry_bench.activations.pooling import Pooling
from geometry_bench.labs.questions import SUMS_ASKED, abilities
from geometry_bench.prompts.pack import Pack
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.storage import digest_lines

Condition = Literal["systems", "bare", "controls", "safety_controls", "topics"]
"""Kinds of system prompts."""

RequestRendering = Literal["text", "chat"]
"""Raw text with one BOS (source C), or the user's turn of a chat without system message (sources B and D)."""

MEAN = Pooling("mean")
MEAN_KEPT = Pooling("mean", skip_bos=True, skip_sinks=True)
LAST_KEPT = Pooling("last", skip_bos=True, skip_sinks=True)
MEAN_LAST_FIVE = Pooling("mean_last", 5)


@dataclass(frozen=True)
class Requirements:
    """The prompts behind a value, and what is read of them.

    ``messages`` names the message sets of the pack and ``conditions`` the kinds of system prompts that they meet; they are
    read at the last token. ``sets`` names sets of requests by role, in ``rendering``, read in each of ``poolings``;
    ``placed`` are poolings that start at a place found in the prompts themselves, so that they are captured when asked for.
    ``under`` names system prompts of the pack that the requests meet, in place of none: each entry is a pass over the
    requests, under one prompt or under several in turn. With ``abilities`` what the model can do is asked too, see
    `labs.questions.abilities`.
    """

    system_role: bool = False
    messages: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    sets: tuple[str, ...] = ()
    rendering: RequestRendering = "text"
    poolings: tuple[Pooling, ...] = ()
    placed: tuple[Pooling, ...] = ()
    under: tuple[tuple[str, ...], ...] = ()
    abilities: bool = False

    @property
    def reads_pack(self) -> bool:
        """Whether any of the pack's texts are among the prompts."""
        return bool(self.messages or self.under) or not self.sets

    def named(self) -> list[str]:
        """Names of the poolings."""
        return [pooling.name for pooling in (*self.poolings, *self.placed)]

    def inputs_hash(self, pack: Pack, settings: RequestSettings) -> str:
        """Content hash of all prompts, known before any model is loaded: the pack's own where no requests are read."""
        if not self.sets:
            return pack.hash
        able = abilities(settings, SUMS_ASKED) if self.abilities else ()
        drawn = (f"{name} {settings.load(name).hash}" for name in self.sets)
        systems = (f"under {digest_lines([pack.systems[name] for name in met])}" for met in self.under)
        return digest_lines(
            [*([pack.hash] if self.messages else []), *systems, *drawn, *(f"{one.name} {one.hash}" for one in able)]
        )

    def cost(self, pack: Pack, settings: RequestSettings | None = None) -> int:
        """Forward passes that a claim would take alone; claims on one message set or set of requests share them."""
        sizes: Mapping[Condition, int] = {
            "systems": len(pack.systems),
            "bare": len(pack.openings),
            "controls": len(pack.controls),
            "safety_controls": len(pack.safety_controls),
            "topics": len(pack.safety_topics),
        }
        passes = sum(sizes[kind] for kind in self.conditions)
        drawn = settings or RequestSettings()
        messages = sum(passes * len(pack.messages[name]) for name in self.messages)
        return messages + sum(len(drawn.load(name)) for name in self.sets) * max(len(self.under), 1)


NO_PROMPTS = Requirements()


@dataclass(frozen=True)
class Wanted:
    """All poolings that the claims of a run read of a set of requests, so that one pass over it serves them all."""

    poolings: Mapping[tuple[str, RequestRendering], tuple[Pooling, ...]]

    @classmethod
    def by(cls, claims: Iterable[Requirements]) -> Wanted:
        """What these claims read together."""
        found: dict[tuple[str, RequestRendering], dict[Pooling, None]] = {}
        for one in claims:
            for name in one.sets:
                found.setdefault((name, one.rendering), {}).update(dict.fromkeys(one.poolings))
        return cls({place: tuple(poolings) for place, poolings in found.items()})

    def of(self, name: str, rendering: RequestRendering) -> tuple[Pooling, ...]:
        """Poolings read of a set in a rendering."""
        return self.poolings.get((name, rendering), ())


NOTHING = Wanted({})
