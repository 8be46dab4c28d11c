"""Answers of a subject to prompts: batched, seeded, greedy or sampled, with interventions in effect, and resumed.

The loop is transformers' own. Nothing of a model's generation configuration is taken over but its end tokens: no
temperature, no penalty, unless it is asked for here.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, cast

from tqdm import tqdm
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from geometry_bench.activations.batching import Batch, Ids
from geometry_bench.activations.halving import run_all
from geometry_bench.behavior.end_tokens import end_tokens
from geometry_bench.behavior.interventions import Intervention, applied, chosen_blocks, facts
from geometry_bench.behavior.passes import inputs_of, planned, refuse_prompts
from geometry_bench.behavior.sampling import Draws, OnlyNumbers, seed_of
from geometry_bench.behavior.stopping import StopTexts, tokens_until, until
from geometry_bench.behavior.store import Answer, AnswerFile, Answers
from geometry_bench.behavior.traces import Trace, reading, refuse_traces
from geometry_bench.errors import GeometryBenchError
from geometry_bench.storage import digest
from geometry_bench.subjects.blocks import without_adapter
from geometry_bench.subjects.quiet import quiet_transformers
from geometry_bench.subjects.subject import Subject


@dataclass(frozen=True)
class Settings:
    """How answers are generated: at most ``new_tokens`` tokens each, greedily at ``temperature`` 0, else sampled.

    A sample is decided by ``seed``, the prompt, and how often the prompt came before; not by its batch. ``top_p`` keeps the
    smallest set of tokens of at least that mass. An answer ends too where one of the texts in ``stop`` comes up, which is
    no part of its text. Raises GeometryBenchError for numbers that make no sense, and for an empty text to stop at.
    """

    new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if "" in self.stop:
            raise GeometryBenchError("stop holds an empty text, at which every answer would end: leave it out.")
        if self.new_tokens < 1:
            raise GeometryBenchError(f"new_tokens is {self.new_tokens}: ask for 1 or more.")
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise GeometryBenchError(
                f"temperature is {self.temperature}: give 0 for greedy answers, or a number above."
            )
        if not 0 < self.top_p <= 1:
            raise GeometryBenchError(f"top_p is {self.top_p}: give a number above 0 and up to 1.")

    def facts(self) -> dict[str, Any]:
        """What decides answers, in plain JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "stop" or value}


@dataclass(frozen=True)
class _Item:
    """One answer to be had: a prompt, and the how many-th sample of it this is."""

    ids: Ids
    draw: int

    @property
    def key(self) -> str:
        return digest([list(self.ids), self.draw])


def generate(
    subject: Subject,
    prompts: Sequence[Sequence[int]],
    settings: Settings | None = None,
    *,
    interventions: Sequence[Intervention] = (),
    traces: Sequence[Trace] = (),
    token_budget: int | None = None,
    progress: bool = True,
    label: str = "",
    store: Answers | None = None,
) -> list[Answer]:
    """An answer to every prompt, in their order; it ends at any of the model's own end tokens.

    prompts: token ids, complete with template and BOS. token_budget: padded tokens of a batch, answers included (default
    by device). interventions: in effect for the prompt and for every token of the answer. traces: projections that are read
    in the same passes and kept in the answers. progress: a bar on stderr where
    that is a terminal. store: where answers are looked up and kept, each batch as soon as it is done. It is left alone
    for a wrapped model, whose weights may have changed since, and while the subject is intervened on by anything but
    ``interventions``. In 16-bit dtypes the company that a prompt runs in can decide between tokens of nearly equal logits.

    Raises GeometryBenchError for no prompts, an empty one, ids of another vocabulary, a prompt that leaves no room for the
    answer or does not fit the memory, logits that are not finite, and all that `applied` refuses.
    """
    settings = settings or Settings()
    refuse_prompts(subject, prompts, settings.new_tokens)
    for one in interventions:
        chosen_blocks(subject, one)
    refuse_traces(subject, traces)
    ends = end_tokens(subject)
    items = _items(prompts, sampled=settings.temperature > 0)
    file = None
    if store is not None and not subject.intervened and subject.identity.origin != "memory":
        company = {} if subject.dtype in ("float32", "float64") else {"token_budget": token_budget}
        decided = {"settings": settings.facts(), "interventions": facts(interventions), "ends": ends, **company}
        decided |= {"traces": [one.facts() for one in traces]} if traces else {}
        file = store.file(subject, decided)
    known = file.read() if file is not None else {}
    done = {item: known[item.key] for item in items if item.key in known}
    waiting = sorted(set(items) - done.keys(), key=lambda item: (len(item.ids), item.ids, item.draw))
    if waiting:
        with tqdm(
            total=len(waiting) + len(done), initial=len(done), desc=label or None, unit="answer", leave=False,
            file=sys.stderr, disable=None if progress else True,
        ) as bar, applied(subject, *interventions):  # fmt: skip
            for some, answers in _batches(subject, waiting, settings, ends, traces, token_budget, items):
                done.update(zip(some, answers, strict=True))
                if file is not None:
                    _keep(file, some, answers)
                bar.update(len(some))
    return [done[item] for item in items]


def _items(prompts: Sequence[Sequence[int]], *, sampled: bool) -> list[_Item]:
    """For each prompt the answer wanted: greedily the same for the same prompt, sampled another one each time."""
    seen: Counter[Ids] = Counter()
    items = []
    for prompt in prompts:
        ids = tuple(map(int, prompt))
        items.append(_Item(ids, seen[ids] if sampled else 0))
        seen[ids] += 1
    return items


def _keep(file: AnswerFile, items: Sequence[_Item], answers: Sequence[Answer]) -> None:
    file.append([(item.key, answer) for item, answer in zip(items, answers, strict=True)])


def _batches(
    subject: Subject,
    waiting: Sequence[_Item],
    settings: Settings,
    ends: Sequence[int],
    traces: Sequence[Trace],
    token_budget: int | None,
    given: Sequence[_Item],
) -> Iterator[tuple[list[_Item], list[Answer]]]:
    """Batches of items with their answers."""

    def run(batch: Batch) -> list[Answer]:
        return _run(subject, [waiting[row] for row in batch.rows], settings, ends, traces, plan.prefix)

    prompts = [item.ids for item in waiting]
    plan = planned(subject, prompts, new_tokens=settings.new_tokens, token_budget=token_budget)
    places = {item: row for row, item in enumerate(waiting)}
    where = [places.get(item, -1) for item in given]
    for batch, answers in run_all(plan.batches, plan.lengths, run, where):
        yield [waiting[row] for row in batch.rows], answers


def _run(
    subject: Subject,
    items: Sequence[_Item],
    settings: Settings,
    ends: Sequence[int],
    traces: Sequence[Trace],
    prefix: int,
) -> list[Answer]:
    """Answers of one batch, whose prompts have a ``prefix`` of so many tokens in common."""
    model = cast(Any, without_adapter(subject.model))
    inputs = inputs_of(subject, [item.ids for item in items], prefix)
    begin = inputs["input_ids"].shape[1]
    stops = [StopTexts(subject.tokenizer, settings.stop, begin)] if settings.stop else []
    config = _configuration(
        max_new_tokens=settings.new_tokens, do_sample=False, eos_token_id=list(ends) or None, pad_token_id=0
    )
    processors = LogitsProcessorList([OnlyNumbers(subject)])
    if settings.temperature > 0:
        seeds = [seed_of(settings.seed, item.ids, item.draw) for item in items]
        processors.append(Draws(seeds, settings.temperature, settings.top_p))
    with subject.measuring(), quiet_transformers(), _without_defaults(model), reading(subject, traces) as read:
        output = model.generate(
            **inputs,
            generation_config=config,
            logits_processor=processors,
            stopping_criteria=StoppingCriteriaList(stops),
        )
    said = output[:, begin:].tolist()
    steps = read.values().tolist() if traces else [[]] * len(said)
    return [_answer(subject, row, ends, settings.stop, found) for row, found in zip(said, steps, strict=True)]


def _configuration(**settings: Any) -> Any:
    return cast(Any, GenerationConfig)(**settings)


@contextmanager
def _without_defaults(model: Any) -> Iterator[None]:
    """Within it, the model's own generation configuration fills nothing in."""
    own = model.generation_config
    model.generation_config = _configuration()
    try:
        yield
    finally:
        model.generation_config = own


def _answer(
    subject: Subject, ids: Sequence[int], ends: Sequence[int], stop: Sequence[str], traces: Sequence[Sequence[float]]
) -> Answer:
    end = next((place + 1 for place, token in enumerate(ids) if token in ends), None)
    said = tuple(ids if end is None else ids[:end])
    text = str(subject.tokenizer.decode(said, skip_special_tokens=True))
    stopped = tokens_until(subject.tokenizer, said, stop)
    if stopped is not None:
        said, end = said[:stopped], stopped
        text = until(str(subject.tokenizer.decode(said, skip_special_tokens=True)), stop)
    return Answer(said, text, "length" if end is None else "end", tuple(tuple(one[: len(said)]) for one in traces))
