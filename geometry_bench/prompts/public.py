"""Public sets of prompts on the Hugging Face Hub: what they are called here, and which of their columns is asked.

Nothing of them is stored in the project. A revision is the commit that is read; None means that the newest one is
resolved when the set is loaded. Either way the commit that was read is in the set's ``revision``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from geometry_bench import hub
from geometry_bench.prompts.tables import Row


@dataclass(frozen=True)
class Public:
    """Where a public set is: Hub id, configurations (read one after another), split, columns, rows that are kept.

    ``column`` None means that the usual names are looked for. ``where`` keeps rows whose columns have these values.
    """

    hub: str
    split: str = "train"
    configs: tuple[str, ...] = ()
    column: str | None = None
    topic: str | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    revision: str | None = None


_MATHS = (
    "algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra", "precalculus",
)  # fmt: skip
_XSTEST = Public("Paul/XSTest", column="prompt", topic="type", revision="f600c994b256f12867dfa5b3eb3d545a3e62f8b5")
_BEAVERTAILS = Public(
    "PKU-Alignment/BeaverTails", "30k_train", column="prompt", revision="8401fe609d288129cc684a9b3be6a93e41cfe678"
)
_TOXIGEN = Public("toxigen/toxigen-data", configs=("train",), column="generation", topic="group")
_PROMPT_SAFETY = Public("SalKhan12/prompt-safety-dataset", column="text", topic="content_category")

PUBLIC: Mapping[str, Public] = {
    "advbench": Public("walledai/AdvBench", column="prompt", revision="9d4730540082fa4017450b65ca1c0e1d8d30446e"),
    "harmbench": Public(
        "walledai/HarmBench", configs=("standard",), column="prompt", topic="category",
        revision="71c5e5411366e2ffff9b3a55fc47493d3aa56dfb",
    ),
    "xstest": _XSTEST,
    "xstest-safe": replace(_XSTEST, where={"label": "safe"}),
    "xstest-unsafe": replace(_XSTEST, where={"label": "unsafe"}),
    "beavertails": _BEAVERTAILS,
    "beavertails-safe": replace(_BEAVERTAILS, where={"is_safe": True}),
    "beavertails-unsafe": replace(_BEAVERTAILS, where={"is_safe": False}),
    "toxigen": _TOXIGEN,
    "toxigen-hate": replace(_TOXIGEN, where={"prompt_label": 1}),
    "toxigen-neutral": replace(_TOXIGEN, where={"prompt_label": 0}),
    "alpaca": Public(
        "tatsu-lab/alpaca", column="instruction", where={"input": ""},
        revision="dce01c9b08f87459cf36a430d809084718273017",
    ),
    "math": Public(
        "EleutherAI/hendrycks_math", configs=_MATHS, column="problem", topic="type",
        revision="21a5633873b6a120296cce3e2df9d5550074f4a3",
    ),
    "gsm8k": Public(
        "openai/gsm8k", configs=("main",), column="question", revision="e53f048856ff4f594e959d75785d2c2d37b678ee"
    ),
    "prompt-safety-dataset": _PROMPT_SAFETY,
    "prompt-safety-dataset-safe": replace(_PROMPT_SAFETY, where={"label": 0}),
    "prompt-safety-dataset-unsafe": replace(_PROMPT_SAFETY, where={"label": 1}),
    "extended-refusal": Public("HarethahMo/extended-refusal", column="instruction"),
}  # fmt: skip
"""The public sets by their name here; ``-safe`` and the like are parts of one."""


def parts_of(name: str) -> tuple[str, ...]:
    """The public sets that a set of both kinds consists of; none for any other set."""
    whole = PUBLIC.get(name.lower())
    return tuple(
        part for part, one in PUBLIC.items() if whole and one is not whole and one.hub == whole.hub and not whole.where
    )


def commit_of(public: Public) -> str:
    """The commit that is read, resolved before anything is loaded; offline, the one in the local Hub cache.

    Raises GeometryBenchError where there is no such set or revision, it is gated, or the Hub cannot be reached.
    """
    if public.revision is not None and hub.COMMIT.fullmatch(public.revision):
        return public.revision
    return hub.commit_of(public.hub, public.revision, "dataset")[0]


def hub_rows(public: Public, commit: str) -> Iterator[Row]:
    """All rows of the set at a commit, configuration by configuration; raises as :func:`geometry_bench.hub.data_set`."""
    for config in public.configs or (None,):
        yield from hub.data_set(public.hub, config, public.split, commit)
