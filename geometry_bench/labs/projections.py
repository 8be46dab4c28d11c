"""What models with projected updates answer: how many sums are right, how many requests are refused, point by point."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from geometry_bench.behavior.judges.verdict import Judge, Rules
from geometry_bench.behavior.utility import sums_asked
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.subspaces import Scheme
from geometry_bench.labs.memo import Memo, remembered
from geometry_bench.labs.questions import SUMS, Graded, Harm, Parts, Prediction, Question, Refusals, Sums, TaskOf
from geometry_bench.prompts.names import NEUTRAL
from geometry_bench.storage import digest
from geometry_bench.subjects.threads import block_weights, threads_for
from geometry_bench.updates.projection import Basis, Projection
from geometry_bench.updates.store import Store
from geometry_bench.updates.update import update_between

if TYPE_CHECKING:
    from geometry_bench.behavior.lines import Lines
    from geometry_bench.labs.family import FamilyLab, FineTune
    from geometry_bench.subjects.families import Member
    from geometry_bench.subjects.subject import Subject

Measure = Literal["utility", "harm", "over_refusal", "prediction"]

SETS: Mapping[Measure, str] = {"utility": SUMS, "harm": "unsafe", "over_refusal": "safe", "prediction": NEUTRAL}
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
class ProjectionPath:
    """Hits of one measure along ρ: ``top`` (shares, requests), ``controls`` (bases, seeds, shares, requests).

    A hit is 0 or 1, or a judge's score as a share of its scale: 1 of 1 to 5 is 0, and 5 is 1. ``start`` and ``end``
    (requests,) are the model without the update and with all of it. Energies are the shares of ‖Δ‖²
    of the blocks that a projected update has, shaped like the hits without requests. ``requests`` are what was asked,
    ``blocks`` the model's decoder blocks.
    """

    requests: Parts
    start: Array
    end: Array
    top: Array
    controls: Array
    top_energy: Array
    control_energy: Array
    blocks: tuple[int, ...]
    stand_in: str | None = None
    """Which model the fine-tune starts from where it is not the one whose update is the alignment."""
    judge: str = ""
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

    def question(self, measure: Measure | TaskOf) -> Question:
        """What a measure asks."""
        if isinstance(measure, TaskOf):
            return measure
        requests = self._family.requests(SETS[measure])
        if measure == "utility":
            return Sums(requests)
        if measure == "prediction":
            return Prediction(requests)
        if measure == "harm" and self._judge.facts.kind != "rules":
            return Harm(requests, measure, GRADED_TOKENS, self._judge)
        return Refusals(requests, measure, ANSWER_TOKENS)

    @cached_property
    def _judge(self) -> Judge:
        return self._open_judge()

    @remembered
    def path(
        self,
        start: str,
        task: str,
        scheme: Scheme,
        measure: Measure | TaskOf,
        shares: tuple[float, ...],
        layers: tuple[int, ...] | None = None,
    ) -> ProjectionPath:
        """One measure of a fine-tune's projected updates for each share ρ, basis and seed, and of both ends.

        Raises:
            GeometryBenchError: a member is missing or cannot be loaded, a sum has no known form, a task cannot be run, or
                the judge leaves an answer without a score.
        """
        none, whole = (Projection(kind, "top-k", 0.0, "floor") for kind in ("parallel", "orthogonal"))
        top = [Projection(scheme, "top-k", share, layers=layers) for share in shares]
        controls = [
            Projection(scheme, basis, share, seed=seed, layers=layers)
            for basis in CONTROLS
            for seed in range(SEEDS)
            for share in shares
        ]
        tune, question = self._family.fine_tune(start, task), self.question(measure)
        replies, energies = self._replies(tune, question, [none, whole, *top, *controls])
        hits = question.judged(replies)
        ends, split = hits[:2], 2 + len(top)
        shape = (len(CONTROLS), SEEDS, len(shares))
        return ProjectionPath(
            question,
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
            question.judge,
            question.beside_the_rules(replies, hits) if isinstance(question, Harm) else None,
        )

    def _replies(
        self, tune: FineTune, question: Question, plans: Sequence[Projection]
    ) -> tuple[list[list[Any]], Array]:
        """Replies (points, requests) and energies (points,): known ones are read, the others measured and kept."""
        from tqdm import tqdm

        from geometry_bench.behavior.projected import energy_kept, projected

        family = self._family.family
        update, source = update_between(family, tune.start, tune.end), update_between(family, *tune.aligned)
        subject = self._subject(tune.start)
        lines = self._lines(subject, tune, question)
        known = lines.read() if lines is not None else {}
        keys = [digest(asdict(plan)) for plan in plans]
        count = len(question.topics)
        rows = {key: known[key] for key in keys if len(known.get(key, {}).get("replies", ())) == count}
        with threads_for(block_weights(subject.n_layers, subject.width)), tqdm(
            total=len(plans), initial=len(rows), desc=f"{update.name}: {question.label}", unit="point", leave=False,
            file=sys.stderr, disable=None if self._progress else True,
        ) as bar:  # fmt: skip
            for key, plan in zip(keys, plans, strict=True):
                if key in rows:
                    continue
                with projected(subject, update, source, plan, store=self._store) as outcomes:
                    rows[key] = {"energy": energy_kept(update, outcomes), "replies": question.replies(subject)}
                if lines is not None:
                    lines.append([(key, {**rows[key], "plan": asdict(plan)})], remedy=_REMEDY)
                bar.update()
        return [rows[key]["replies"] for key in keys], np.array([rows[key]["energy"] for key in keys], dtype=np.float64)

    def _lines(self, subject: Subject, tune: FineTune, question: Question) -> Lines | None:
        """Where points are kept, under all that decides them but the projection."""
        from geometry_bench.activations.keys import key_facts
        from geometry_bench.behavior.lines import Lines
        from geometry_bench.updates.checkpoint import revision_of

        if self._points is None:
            return None
        family = self._family.family
        prompts, asked = question.facts(subject)
        facts = {
            **key_facts(subject, [tuple(ids) for ids in prompts], {}),
            "site": "projected",
            "version": VERSION,
            "members": [revision_of(family.spec(one)) for one in (tune.start, tune.end, *tune.aligned)],
            **asked,
        }
        return Lines.of(self._points, facts)

    def _subject(self, member: Member) -> Subject:
        """A member, loaded; the one held before is let go."""
        from geometry_bench.subjects.load import load

        if self._held is None or self._held[0] != member:
            if self._held is not None:
                self._held[1].close()
            self._held = member, load(self._family.family.spec(member))
        return self._held[1]
