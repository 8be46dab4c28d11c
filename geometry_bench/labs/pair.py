"""A model and the one that it was made from, and models along a training run: what was measured on each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from geometry_bench.labs.model import Lab
from geometry_bench.records.comparability import unlike
from geometry_bench.records.estimates import Estimate
from geometry_bench.records.measurement import Absence, Measurement, NotApplicableError, case_key

Measured = Callable[[str, str], Measurement | None]
"""The measurement of a claim's case, made now where it was not yet; None where a stored baseline lacks it."""


@dataclass(frozen=True)
class Pair:
    """A child and its parent, which may be a stored baseline."""

    child: Measured
    parent: Measured
    names: tuple[str, str]
    lab: Callable[[], Lab]
    """The child, loaded: for what is more than a comparison of measurements."""

    def measured(self, claim: str, case: str = "", across: Collection[str] = ()) -> tuple[Measurement, Measurement]:
        """A case's measurements on child and parent, comparable with each other.

        Raises:
            NotApplicableError: one of them is missing or has no value, or they cannot be compared.
        """
        key, found = case_key(claim, case), (self.child(claim, case), self.parent(claim, case))
        for name, one in zip(self.names, found, strict=True):
            if one is None:
                raise NotApplicableError(
                    Absence.NO_MEMBER, f"the baseline of {name} has no {key}; store it with --baseline-update=new"
                )
            if one.estimate is None or one.estimate.value is None:
                why = one.missing.sentence if one.missing is not None else "it is undefined"
                raise NotApplicableError(Absence.NO_MEMBER, f"{name} has no value for {key}: {why}")
        child, parent = found
        assert child is not None
        assert parent is not None
        difference = unlike(child, parent, across)
        if difference is not None:
            raise NotApplicableError(Absence.NO_MEMBER, f"{key} cannot be compared: {difference.sentence}")
        return child, parent

    def estimates(self, claim: str, case: str = "", across: Collection[str] = ()) -> tuple[Estimate, Estimate]:
        """The estimates of a case on child and parent."""
        child, parent = self.measured(claim, case, across)
        assert child.estimate is not None
        assert parent.estimate is not None
        return child.estimate, parent.estimate


@dataclass(frozen=True)
class Trajectory:
    """Checkpoints of one training run by their steps, in order."""

    steps: Mapping[float, Measured]
    names: Mapping[float, str]
    labs: Mapping[float, Callable[[], Lab]]

    def pair(self, step: float) -> Pair:
        """A checkpoint and the first one."""
        first = next(iter(self.steps))
        return Pair(self.steps[step], self.steps[first], (self.names[step], self.names[first]), self.labs[step])
