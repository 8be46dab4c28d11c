"""What a cached number is a function of, and what its file says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from geometry_bench.activations.batching import Ids
from geometry_bench.activations.pooling import Pooling

if TYPE_CHECKING:
    from geometry_bench.subjects.subject import Subject

CODE_VERSION = 2
"""Raised whenever the same subject and prompts would give other numbers than before: old cache entries then miss."""

SITE = "block_output"


def key_facts(subject: Subject, distinct: Sequence[Ids], setting: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a stored number is a function of, the pooling apart."""
    import torch
    import transformers

    facts = {
        "code": CODE_VERSION,
        "site": SITE,
        "weights": subject.identity.revision,
        "adapter": subject.identity.adapter_hash,
        "tokenizer": subject.tokenizer_hash,
        "ids": [list(ids) for ids in distinct],
        "dtype": subject.dtype,
        "quantisation": subject.quantisation,
        "attention": subject.attention,
        "device": subject.device.type,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    # In 16-bit formats the company a prompt runs in changes its values; in float32 it does so below 2e-5.
    return facts if subject.dtype in ("float32", "float64") else {**facts, **setting}


def file_facts(subject: Subject, shape: tuple[int, int, int], pooling: Pooling) -> dict[str, str]:
    """What a person can read in an entry: subject, (prompts, layers, width), pooling, site, dtype and kernel, as text."""
    return {
        "subject": subject.identity.name,
        "revision": subject.identity.revision,
        "prompts": str(shape[0]),
        "layers": str(shape[1]),
        "width": str(shape[2]),
        "pooling": pooling.name,
        "site": SITE,
        "dtype": subject.dtype,
        "attention": subject.attention,
    }
