"""How well a subject predicts texts, token by token: what an intervention costs where it should cost nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from geometry_bench.behavior.interventions import Intervention, applied
from geometry_bench.behavior.passes import refuse_prompts
from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects.blocks import without_adapter
from geometry_bench.subjects.subject import Subject

LOGITS = 2**26
"""Logits that are held at once."""


@dataclass(frozen=True)
class Prediction:
    """For each text the summed cross-entropy of its tokens but the first, in nats, and how many these are: (texts,)."""

    nats: NDArray[np.float64]
    tokens: NDArray[np.int64]

    @property
    def nats_per_token(self) -> float:
        """The mean over all tokens of all texts."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def perplexity(self) -> float:
        """exp of the mean."""
        return math.exp(self.nats_per_token)


def predicted(
    subject: Subject, texts: Sequence[Sequence[int]], *, interventions: Sequence[Intervention] = ()
) -> Prediction:
    """The prediction of texts, token ids with their BOS, with interventions in effect.

    Raises GeometryBenchError for no texts, one of a single token, a model without a head, a cross-entropy that is not
    finite, and all that `applied` refuses.
    """
    if texts and min(map(len, texts)) == 1:
        raise GeometryBenchError("A text has a single token, so nothing of it can be predicted: give longer texts.")
    found = scored(subject, [(ids, 1) for ids in texts], interventions=interventions)
    return Prediction(np.array([one.nats for one in found]), np.array([len(ids) - 1 for ids in texts], dtype=np.int64))


@dataclass(frozen=True)
class Scored:
    """The summed cross-entropy of the end of a text in nats, and whether each token of it is the likeliest there."""

    nats: float
    greedy: bool


def scored(
    subject: Subject,
    texts: Sequence[tuple[Sequence[int], int]],
    *,
    interventions: Sequence[Intervention] = (),
    batch_size: int | None = None,
    done: Callable[[int], object] = lambda _: None,
) -> list[Scored]:
    """Ends of texts, given what stands before: each text is token ids and the place, from 1 on, at which its end begins.

    Texts that differ in their last token alone share a pass. ``batch_size``: texts of a pass at most. ``done`` is told
    after each pass how many texts it scored.

    Raises GeometryBenchError as `predicted` does.
    """
    refuse_prompts(subject, [ids[:-1] for ids, _ in texts])
    refuse_prompts(subject, [ids[-1:] for ids, _ in texts])  # which is predicted, and needs no position
    places: dict[tuple[int, ...], list[int]] = {}
    for place, (ids, begin) in enumerate(texts):
        if not 1 <= begin < len(ids):
            raise GeometryBenchError(f"Text {place} has {len(ids)} tokens, so its end cannot begin at token {begin}.")
        places.setdefault(tuple(map(int, ids[:-1])), []).append(place)
    model = cast(Any, without_adapter(subject.model))
    size = int(cast(Any, subject.backbone).get_input_embeddings().weight.shape[0])
    inputs = sorted(places, key=len)
    count = min(max(1, LOGITS // (size * len(inputs[-1]))), batch_size or len(inputs))
    found: dict[int, Scored] = {}
    with applied(subject, *interventions), subject.measuring():
        for start in range(0, len(inputs), count):
            batch = inputs[start : start + count]
            # Padded on the right, where a causal model does not look.
            padded = pad_sequence([torch.tensor(one) for one in batch], batch_first=True)
            mask = torch.arange(padded.shape[1]) < torch.tensor([len(one) for one in batch])[:, None]
            given = {"input_ids": padded.to(subject.device), "attention_mask": mask.long().to(subject.device)}
            logits = getattr(model(**given, use_cache=False), "logits", None)
            if logits is None:
                raise GeometryBenchError(
                    f"{subject.identity.name} has no head that predicts tokens: give the causal model."
                )
            for one, rows in zip(batch, logits, strict=True):
                found |= {place: _end(rows, *texts[place]) for place in places[one]}
            done(sum(len(places[one]) for one in batch))
    if not np.isfinite([one.nats for one in found.values()]).all():
        raise GeometryBenchError(
            f"The cross-entropy of {subject.identity.name} is not finite: check weights and interventions."
        )
    return [found[place] for place in range(len(texts))]


def _end(logits: Tensor, ids: Sequence[int], begin: int) -> Scored:
    """The end of a text from its logits (positions, vocabulary)."""
    wanted = torch.tensor(list(ids[begin:]), device=logits.device)
    rows = logits[begin - 1 : len(ids) - 1].float()
    greedy = bool((rows.argmax(dim=-1) == wanted).all())
    return Scored(float(cross_entropy(rows, wanted, reduction="sum")), greedy)
