"""A callback for transformers' Trainer and trl's trainers: the geometry of the live model every few steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from geometry_bench import api
from geometry_bench.errors import GeometryBenchError
from geometry_bench.labs.model import CaptureSettings
from geometry_bench.records.files import ResultsFile
from geometry_bench.records.judgement import Judgement

PREFIX = "geometry"


class GeometryCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Measure claims on the model in training, before the first step, every ``every`` steps and after the last.

    The live model is measured, without a second copy; its modes and all random states are as before afterwards, so that
    training goes on as if nothing had been measured. What has changed since the start (or from ``against``, results or a
    baseline of the parent) is logged through the trainer as ``geometry/CLAIM/...``, and measurements are written to
    ``results`` as ``NAME/step-STEP``.

    Example:
        ``trainer.add_callback(GeometryCallback(trainer, every=50, results="results"))``

    Args:
        trainer: the trainer that it is added to; it logs the values.
        every: optimiser steps between two measurements.
        claims: ids or patterns; the gate by default.
        results: folder for the measurements; none are written without one.
        name: what the model is called in records.
        against: results or baselines of the parent, as a path; the model before the first step where there are none.
        options: further arguments of :func:`geometry_bench.measure`, such as ``sets``, ``requests`` and ``prompts``.

    Raises:
        GeometryBenchError: ``every`` is below 1, the trainer has no tokenizer, or its weights are spread over processes.
    """

    def __init__(
        self,
        trainer: Any,
        *,
        every: int = 100,
        claims: str | Sequence[str] = "gate.*",
        results: str | Path | None = None,
        name: str = "model",
        against: str | Path | None = None,
        **options: Any,
    ) -> None:
        if every < 1:
            raise GeometryBenchError(f"GeometryCallback: every is {every}; give 1 or more steps.")
        self._trainer, self._every, self._claims, self._name = trainer, every, claims, name
        self._options = {"capture": CaptureSettings(progress=False), **options, "cache": False}
        self._file = None if results is None else ResultsFile(Path(results))
        self._parent = None if against is None else api.load(against)
        self._last: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the model before the first step, or the one that a checkpoint holds."""
        self._measure(args, state, kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the model every few steps."""
        if state.global_step % self._every == 0:
            self._measure(args, state, kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the model as it ends."""
        self._measure(args, state, kwargs)

    def _measure(self, args: Any, state: Any, given: Mapping[str, Any]) -> None:
        if state.global_step == self._last or not state.is_world_process_zero:
            return
        self._last = state.global_step
        tokenizer = given.get("processing_class") or getattr(self._trainer, "processing_class", None)
        if tokenizer is None:
            raise GeometryBenchError(
                "GeometryCallback needs a tokenizer: give the trainer one as processing_class=tokenizer."
            )
        if getattr(self._trainer, "is_fsdp_enabled", False) or getattr(self._trainer, "is_deepspeed_enabled", False):
            raise GeometryBenchError(
                "GeometryCallback measures a model that is whole on one device, and FSDP or DeepSpeed has spread this one: "
                "measure its checkpoints instead, with --checkpoints."
            )
        name = f"{self._name}/step-{state.global_step}"
        found = api.measure(given["model"], tokenizer=tokenizer, claims=self._claims, name=name, **self._options)
        if self._parent is None:
            self._parent = found
        if self._file is not None:
            for one in found.measurements:
                self._file.write(one)
        values: dict[str, float] = {}
        for judged in api.compare(found, self._parent).judgements:
            values |= logged(judged)
        self._trainer.log(values)


def logged(judged: Judgement) -> dict[str, float]:
    """What is logged of a case: its value, and how far it lies from the parent's."""
    place = f"{PREFIX}/{judged.measurement.key}"
    estimate = judged.measurement.estimate
    values = {} if estimate is None or estimate.value is None else {f"{place}/value": estimate.value}
    for name in ("delta", "gain", "cosine", "share", "difference"):
        number = judged.baseline.number(name)
        if number is not None and not (name == "difference" and f"{place}/delta" in values):
            values[f"{place}/{name}"] = number
    return values
