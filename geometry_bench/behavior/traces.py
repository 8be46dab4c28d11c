"""Projections of the stream on directions, read token by token: while an answer is generated, or of words that are given."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geometry_bench.activations.batching import Ids
from geometry_bench.behavior.interventions import checked_direction
from geometry_bench.behavior.passes import inputs_of, planned, refuse_prompts
from geometry_bench.errors import GeometryBenchError
from geometry_bench.storage import digest_arrays
from geometry_bench.subjects.streams import block_output
from geometry_bench.subjects.subject import Subject

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Trace:
    """⟨h, v̂⟩ of the outputs of a block, as the block gives them: before an intervention at this block changes them.

    Raises GeometryBenchError for a direction that is not one vector of finite numbers or is zero.
    """

    direction: NDArray[Any]
    block: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "direction", checked_direction(self.direction, "The direction of a Trace"))

    def facts(self) -> dict[str, Any]:
        """What decides what is read, in plain JSON values; the direction by its SHA-256."""
        return {"block": self.block, "direction": digest_arrays({"direction": self.direction})}


def refuse_traces(subject: Subject, traces: Sequence[Trace]) -> None:
    """Raise GeometryBenchError for a direction of another width, and for a block that the subject does not have."""
    name, count = subject.identity.name, subject.n_layers
    for one in traces:
        if len(one.direction) != subject.width:
            raise GeometryBenchError(
                f"The direction of a Trace has width {len(one.direction)}, and {name} has {subject.width}: give a direction "
                "of this model."
            )
        if not 0 <= one.block < count:
            raise GeometryBenchError(
                f"A Trace names block {one.block}, and {name} has blocks 0 to {count - 1}: name these."
            )


@dataclass
class Read:
    """What the traces found, pass by pass: each (rows, positions)."""

    passes: list[list[Tensor]] = field(default_factory=list)

    def values(self) -> Array:
        """All positions in their order, (rows, traces, positions)."""
        joined = [torch.cat(one, dim=1) for one in self.passes]
        found: Array = torch.stack(joined, dim=1).float().cpu().numpy()
        return found


@contextmanager
def reading(subject: Subject, traces: Sequence[Trace], last: int = 1) -> Iterator[Read]:
    """Within it, the ``last`` positions of every pass are read; prompts must end at the end of their rows."""
    read = Read([[] for _ in traces])
    with ExitStack() as stack:
        for found, trace in zip(read.passes, traces, strict=True):
            hook = _hook(found, trace, last)
            # In front, so that it runs before interventions at this block.
            stack.callback(subject.blocks[trace.block].register_forward_hook(hook, prepend=True).remove)
        yield read


def _hook(found: list[Tensor], trace: Trace, last: int) -> Any:
    vector = torch.from_numpy(trace.direction / np.linalg.norm(trace.direction))

    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        hidden = block_output(output)[:, -last:].detach()
        wide = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
        found.append(wide @ vector.to(wide))

    return hook


def forced(subject: Subject, prompts: Sequence[Sequence[int]], words: Sequence[int], traces: Sequence[Trace]) -> Array:
    """Projections (prompts, traces, words) where the same ``words`` follow every prompt, as if the model had said them.

    Column t is read at the token after which word t stands, as the traces of an answer are. Raises GeometryBenchError as
    `generate` does, and for no words.
    """
    if not words:
        raise GeometryBenchError("No words were given to follow the prompts: give at least one token.")
    refuse_prompts(subject, prompts, len(words))
    refuse_traces(subject, traces)
    said = tuple(map(int, words[:-1]))
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    given: list[Ids] = [(*map(int, prompts[row]), *said) for row in order]
    found = np.empty((len(prompts), len(traces), len(words)), dtype=np.float32)
    backbone = cast(Any, subject.backbone)
    numbered = "position_ids" in inspect.signature(backbone.forward).parameters
    for batch in planned(subject, given).batches:
        inputs = inputs_of(subject, [given[row] for row in batch.rows])
        if numbered:
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
        with subject.measuring(), reading(subject, traces, last=len(words)) as read:
            backbone(**inputs, use_cache=False, output_hidden_states=False)
        found[[order[row] for row in batch.rows]] = read.values()
    return found
