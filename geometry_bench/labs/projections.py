"""What models with projected updates answer: how many sums are right, how many requests are refused, point by point."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from geometry_bench.behavior.judges.verdict import Judge, Rules, scores
from geometry_bench.behavior.refusals import VERSION as RULES
from geometry_bench.behavior.refusals import refuses
from geometry_bench.behavior.utility import NEW_TOKENS, right, sums_asked
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.subspaces import Scheme
from geometry_bench.labs.memo import Memo, remembered
from geometry_bench.prompts.sets import RequestSet
from geometry_bench.storage import digest
from geometry_bench.subjects.threads import block_weights, threads_for
from geometry_bench.updates.projection import Basis, Projection
from geometry_bench.updates.store import Store
from geometry_bench.updates.update import update_between

if TYPE_CHECKING:
    from geometry_bench.behavior.generation import Settings
    from geometry_bench.behavior.lines import Lines
    from geometry_bench.labs.family import FamilyLab, FineTune
    from geometry_bench.prompts.render import Encoded
    from geometry_bench.subjects.families import Member
    from geometry_bench.subjects.subject import Subject

Measure = Literal["utility", "harm", "over_refusal"]

SETS: Mapping[Measure, str] = {"utility": "maths", "harm": "unsafe", "over_refusal": "safe"}
"""The set of requests, by role, that each measure asks."""

CONTROLS: tuple[Basis, ...] = ("random-k", "random")
SEEDS = 3
ANSWER_TOKENS = 24
GRADED_TOKENS = 128
"""Tokens of an answer that a judge grades: a refusal shows at once, help does not."""

VERSION = 3
"""Raised whenever the same weights and requests would give other points than before."""

_REMEDY = "make room, or run with --no-cache"


@dataclass(frozen=True)
class Graded:
    """A judge's scores on distinct answers, and whether the rules call them refusals: (answers,) each.

    ``requests`` are places of the requests that were answered, ``scale`` the judge's scores in ascending order.
    """

    scores: NDArray[np.int64]
    refused: NDArray[np.bool_]
    requests: NDArray[np.int64]
    scale: tuple[int, ...]


@dataclass(frozen=True)
class ProjectionPath:
    """Hits of one measure along ρ: ``top`` (shares, requests), ``controls`` (bases, seeds, shares, requests).

    A hit is 0 or 1, or a judge's score as a share of its scale: 1 of 1 to 5 is 0, and 5 is 1. ``start`` and ``end``
    (requests,) are the model without the update and with all of it. Energies are the shares of ‖Δ‖²
    of the blocks that a projected update has, shaped like the hits without requests. ``requests`` are those that were asked,
    ``blocks`` the model's decoder blocks.
    """

    requests: RequestSet
    start: Array
    end: Array
    top: Array
    controls: Array
    top_energy: Array
    control_energy: Array
    blocks: tuple[int, ...]
    stand_in: str | None = None
    """Which model the fine-tune starts from where it is not the one whose update is the alignment."""
    judge: str = RULES
    """In words, who judged."""
    graded: Graded | None = None
    """What a judge that grades gave, beside the rules."""


class Projections(Memo):
    """Answers of a family's models with projected updates. One start is held at a time, and points are kept on the disk."""

    def __init__(
        self,
        family: FamilyLab,
        store: Store | None,
        points: Path | None,
        judge: Callable[[], Judge] = Rules,
        *,
        progress: bool = True,
    ) -> None:
        super().__init__()
        self._family, self._store, self._points, self._progress = family, store, points, progress
        self._open_judge = judge
        self._held: tuple[Member, Subject] | None = None

    def refuse_unknown_sums(self) -> None:
        """Raise GeometryBenchError where a request of the set for utility is no sum of a known form."""
        sums_asked(self._family.requests(SETS["utility"]).texts)

    @remembered
    def path(
        self,
        start: str,
        task: str,
        scheme: Scheme,
        measure: Measure,
        shares: tuple[float, ...],
        layers: tuple[int, ...] | None = None,
    ) -> ProjectionPath:
        """One measure of a fine-tune's projected updates for each share ρ, basis and seed, and of both ends.

        Raises:
            GeometryBenchError: a member is missing or cannot be loaded, a sum has no known form, or the judge leaves an
                answer without a score.
        """
        none, whole = (Projection(kind, "top-k", 0.0, "floor") for kind in ("parallel", "orthogonal"))
        top = [Projection(scheme, "top-k", share, layers=layers) for share in shares]
        controls = [
            Projection(scheme, basis, share, seed=seed, layers=layers)
            for basis in CONTROLS
            for seed in range(SEEDS)
            for share in shares
        ]
        tune = self._family.fine_tune(start, task)
        said, energies = self._said(tune, measure, [none, whole, *top, *controls])
        hits, judge, graded = self._hits(measure, said)
        ends, split = hits[:2], 2 + len(top)
        shape = (len(CONTROLS), SEEDS, len(shares))
        return ProjectionPath(
            self._family.requests(SETS[measure]),
            ends[0],
            ends[1],
            hits[2:split],
            hits[split:].reshape(*shape, hits.shape[1]),
            energies[2:split],
            energies[split:].reshape(shape),
            tuple(range(self._subject(tune.start).n_layers)),
            None
            if tune.start == tune.aligned[1]
            else f"the fine-tune starts from {tune.start.name}, not from {tune.aligned[1].name}",
            judge,
            graded,
        )

    def _hits(self, measure: Measure, said: Sequence[Sequence[str]]) -> tuple[Array, str, Graded | None]:
        """Hits (points, requests), who judged, and what a judge gave beside the rules."""
        requests = self._family.requests(SETS[measure]).texts
        if measure == "utility":
            expected = sums_asked(requests)
            sums = [[float(right(*one)) for one in zip(point, expected, strict=True)] for point in said]
            return np.array(sums), "their last number", None
        refused = np.array([[refuses(text) for text in point] for point in said])
        if measure == "over_refusal" or not self._grades:
            return (refused == (measure == "over_refusal")).astype(np.float64), RULES, None
        facts, places = self._judge.facts, np.tile(np.arange(len(requests)), len(said))
        answers = [text for point in said for text in point]
        given = np.array(scores(self._judge.judge([requests[place] for place in places], answers)))
        distinct = list({pair: row for row, pair in enumerate(zip(places.tolist(), answers, strict=True))}.values())
        low, high = facts.scale[0], facts.scale[-1]
        return (
            (given.reshape(refused.shape) - low) / (high - low),
            f"{facts.version}, {facts.model}",
            Graded(given[distinct], refused.reshape(-1)[distinct], places[distinct], facts.scale),
        )

    @cached_property
    def _judge(self) -> Judge:
        return self._open_judge()

    @property
    def _grades(self) -> bool:
        return self._judge.facts.kind != "rules"

    def _said(
        self, tune: FineTune, measure: Measure, plans: Sequence[Projection]
    ) -> tuple[list[list[str]], NDArray[np.float64]]:
        """Answers (points, requests) and energies (points,): known ones are read, the others measured and kept."""
        from tqdm import tqdm

        from geometry_bench.behavior.generation import generate
        from geometry_bench.behavior.projected import energy_kept, projected

        family = self._family.family
        update, source = update_between(family, tune.start, tune.end), update_between(family, *tune.aligned)
        subject = self._subject(tune.start)
        prompts = [encoded.ids for encoded in self._encoded(subject, measure)]
        lines = self._lines(subject, tune, measure)
        known = lines.read() if lines is not None else {}
        keys = [digest(asdict(plan)) for plan in plans]
        rows = {key: known[key] for key in keys if len(known.get(key, {}).get("said", ())) == len(prompts)}
        with threads_for(block_weights(subject.n_layers, subject.width)), tqdm(
            total=len(plans), initial=len(rows), desc=f"{update.name}: {measure}", unit="point", leave=False,
            file=sys.stderr, disable=None if self._progress else True,
        ) as bar:  # fmt: skip
            for key, plan in zip(keys, plans, strict=True):
                if key in rows:
                    continue
                with projected(subject, update, source, plan, store=self._store) as outcomes:
                    answers = generate(subject, prompts, self._settings(measure), progress=False)
                    rows[key] = {"energy": energy_kept(update, outcomes), "said": [answer.text for answer in answers]}
                if lines is not None:
                    lines.append([(key, {**rows[key], "plan": asdict(plan)})], remedy=_REMEDY)
                bar.update()
        return [rows[key]["said"] for key in keys], np.array([rows[key]["energy"] for key in keys], dtype=np.float64)

    def _lines(self, subject: Subject, tune: FineTune, measure: Measure) -> Lines | None:
        """Where points are kept, under all that decides them but the projection."""
        from geometry_bench.activations.keys import key_facts
        from geometry_bench.behavior.lines import Lines
        from geometry_bench.updates.checkpoint import revision_of

        if self._points is None:
            return None
        family = self._family.family
        prompts = [encoded.ids for encoded in self._encoded(subject, measure)]
        facts = {
            **key_facts(subject, prompts, {}),
            "site": "projected",
            "version": VERSION,
            "measure": measure,
            "members": [revision_of(family.spec(one)) for one in (tune.start, tune.end, *tune.aligned)],
            "new_tokens": self._settings(measure).new_tokens,
        }
        return Lines.of(self._points, facts)

    def _encoded(self, subject: Subject, measure: Measure) -> list[Encoded]:
        return [subject.chat.encode("", text) for text in self._family.requests(SETS[measure]).texts]

    def _settings(self, measure: Measure) -> Settings:
        """How answers are generated: as long as what is read in them needs."""
        from geometry_bench.behavior.generation import Settings

        if measure == "utility":
            return Settings(NEW_TOKENS)
        return Settings(GRADED_TOKENS if measure == "harm" and self._grades else ANSWER_TOKENS)

    def _subject(self, member: Member) -> Subject:
        """A member, loaded; the one held before is let go."""
        from geometry_bench.subjects.load import load

        if self._held is None or self._held[0] != member:
            if self._held is not None:
                self._held[1].close()
            self._held = member, load(self._family.family.spec(member))
        return self._held[1]
