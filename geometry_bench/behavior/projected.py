"""A loaded model with a projected update: what `updates.projection` writes to a folder, in memory and for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects.subject import Subject
from geometry_bench.updates.projection import Projection, TensorOutcome
from geometry_bench.updates.projection import projected as projected_rows
from geometry_bench.updates.store import Store
from geometry_bench.updates.update import Update


@contextmanager
def projected(
    subject: Subject, task: Update, source: Update, plan: Projection, *, store: Store | None = None
) -> Iterator[Mapping[str, TensorOutcome]]:
    """Within it, the subject has the weights that `geometry-bench project` would write; it gives what became of each tensor.

    ``subject`` is the start of the update ``task``, loaded as it is. Afterwards all weights are as before, bit by bit,
    whatever happened.

    Raises GeometryBenchError as `updates.projection.projected` does, and for a tensor of the checkpoint that is no parameter
    of the loaded model.
    """
    parameters = dict(subject.model.named_parameters(remove_duplicate=False))
    outcomes: dict[str, TensorOutcome] = {}
    with subject.intervene(), ExitStack() as stack:
        for name in task.names:
            parameter = parameters.get(task.pairs[name].start or name)
            if parameter is None or tuple(parameter.shape) != tuple(task.start.stored(name).shape):
                raise GeometryBenchError(
                    f"{name} of {task.start.name} is no parameter of the loaded {subject.identity.name}: write the "
                    "projection to a folder with `geometry-bench project`, and measure that."
                )
            outcome, rows = projected_rows(task, source, name, plan, store=store)
            values = np.concatenate([np.atleast_1d(part) for part in rows]).reshape(parameter.shape)
            stack.callback(setattr, parameter, "data", parameter.data)
            parameter.data = torch.from_numpy(values).to(parameter.device, parameter.dtype)
            outcomes[name] = outcome
        yield outcomes


def energy_kept(task: Update, outcomes: Mapping[str, TensorOutcome]) -> float:
    """Share of ‖Δ‖² over the decoder blocks' tensors together that the projected update has.

    Embeddings are left out: they hold much of an update, of which a subspace among thousands of rows keeps next to nothing.
    """
    whole = {name: task.energy(name) or 0.0 for name in outcomes if task.pairs[name].layer is not None}
    kept = sum(energy * (outcomes[name].energy_kept or 0.0) for name, energy in whole.items())
    return kept / sum(whole.values())
