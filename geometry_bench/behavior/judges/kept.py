"""Verdicts kept on disk, line by line: what a judge has graded once it is not asked again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from geometry_bench.behavior.judges.verdict import JudgeFacts, UnansweredError, Verdict, refuse_unpaired
from geometry_bench.behavior.lines import Lines
from geometry_bench.caches import cache_folder
from geometry_bench.storage import digest

Pair = tuple[str, str]
"""A request and an answer."""

Ask = Callable[[Sequence[Pair]], Iterator[Verdict]]
"""Gives a verdict on each pair, in their order, one after another."""


class Verdicts:
    """``verdicts`` in a cache folder: a file for each judge, and in it a line a verdict."""

    def __init__(self, cache: Path | None = None) -> None:
        self.root = cache_folder("verdicts", cache)

    def of(self, judge: JudgeFacts) -> Lines:
        """The file of a judge."""
        return Lines.of(self.root, judge.as_dict())


@dataclass(frozen=True)
class Grading:
    """How a judge that reads is asked: where its verdicts are kept (None: nowhere), under which name its bar goes."""

    store: Verdicts | None
    label: str
    progress: bool = True

    def verdicts(self, judge: JudgeFacts, requests: Sequence[str], answers: Sequence[str], ask: Ask) -> list[Verdict]:
        """A verdict on each answer: those that are known, and of the others what ``ask`` gives. Pairs are asked for once.

        A verdict without a score is not kept, so that the next call asks again.

        Raises GeometryBenchError for no answers or not as many requests, and UnansweredError, with how many verdicts are
        kept, where the judge stops answering.
        """
        refuse_unpaired(requests, answers)
        pairs = list(zip(requests, answers, strict=True))
        keys = [digest(pair) for pair in pairs]
        lines = None if self.store is None else self.store.of(judge)
        rows = {} if lines is None else lines.read()
        known = {key: Verdict(row["score"]) for key, row in rows.items() if row.get("score") in judge.scale}
        waiting = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in known}
        if waiting:
            kept, wanted = len(known.keys() & set(keys)), len(set(keys))
            with tqdm(
                total=wanted, initial=kept, desc=f"{self.label}: judging", unit="answer", leave=False,
                file=sys.stderr, disable=None if self.progress else True,
            ) as bar:  # fmt: skip
                try:
                    for key, verdict in zip(waiting, ask(list(waiting.values())), strict=True):
                        known[key] = verdict
                        if verdict.score is not None and lines is not None:
                            lines.append([(key, {"score": verdict.score})], remedy="make room for verdicts")
                            kept += 1
                        bar.update()
                except UnansweredError as error:
                    raise UnansweredError(
                        f"{error}: {kept} of {wanted} verdicts are kept, run again to go on."
                    ) from None
        return [known[key] for key in keys]
