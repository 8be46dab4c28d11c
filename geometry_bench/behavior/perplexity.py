"""How well a subject predicts texts, token by token: what an intervention costs where it should cost nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
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
    refuse_prompts(subject, texts)
    if min(map(len, texts)) < 2:
        raise GeometryBenchError("A text has a single token, so nothing of it can be predicted: give longer texts.")
    model = cast(Any, without_adapter(subject.model))
    size = int(cast(Any, subject.backbone).get_input_embeddings().weight.shape[0])
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    count = max(1, LOGITS // (size * len(texts[order[-1]])))
    nats = np.empty(len(texts))
    with applied(subject, *interventions), subject.measuring():
        for start in range(0, len(order), count):
            rows = order[start : start + count]
            # Padded on the right, where a causal model does not look.
            ids = pad_sequence([torch.tensor(list(texts[row])) for row in rows], batch_first=True)
            mask = torch.arange(ids.shape[1]) < torch.tensor([len(texts[row]) for row in rows])[:, None]
            given = {"input_ids": ids.to(subject.device), "attention_mask": mask.long().to(subject.device)}
            logits = getattr(model(**given, use_cache=False), "logits", None)
            if logits is None:
                raise GeometryBenchError(
                    f"{subject.identity.name} has no head that predicts tokens: give the causal model."
                )
            for row, scores in zip(rows, logits, strict=True):
                wanted = torch.tensor(list(texts[row][1:]), device=scores.device)
                nats[row] = float(cross_entropy(scores[: len(wanted)].float(), wanted, reduction="sum"))
    if not np.isfinite(nats).all():
        raise GeometryBenchError(
            f"The cross-entropy of {subject.identity.name} is not finite: check weights and interventions."
        )
    return Prediction(nats, np.array([len(ids) - 1 for ids in texts], dtype=np.int64))
