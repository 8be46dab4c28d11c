"""Measure in a notebook or a script: ``measure``, ``load``, ``compare``, and the results that they give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geometry_bench.claims.model import Claim
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.errors import GeometryBenchError
from geometry_bench.judging import NO_MARGINS, Baselines, Margins, StoredBaselines, judge_run
from geometry_bench.labs.model import CaptureSettings
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.records.baselines import BaselineStore
from geometry_bench.records.estimates import Curve, Estimate
from geometry_bench.records.files import ResultsFile
from geometry_bench.records.held import Held
from geometry_bench.records.judgement import Judgement
from geometry_bench.records.measurement import Measurement
from geometry_bench.records.reading import read_kept
from geometry_bench.report.summary import summary_tables
from geometry_bench.run.execute import Failure, Session, execute
from geometry_bench.run.plan import plan
from geometry_bench.run.request import Request, Settings, chosen_claims
from geometry_bench.subjects.families import declared_member, load_family
from geometry_bench.subjects.groups import DEPTH, Group, group_of, load_group
from geometry_bench.subjects.spec import SubjectSpec
from geometry_bench.subjects.subject import Subject

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Result:
    """One measured case with its judgement."""

    judgement: Judgement

    @property
    def measurement(self) -> Measurement:
        """What was measured."""
        return self.judgement.measurement

    @property
    def estimate(self) -> Estimate:
        """The value with its interval and null, corrected where there is such a variant.

        Raises:
            GeometryBenchError: there is none; the sentence says why.
        """
        if self.measurement.estimate is None:
            raise GeometryBenchError(f"{self.judgement.where} has no value: {self.judgement.claim.sentence}")
        return self.measurement.estimate

    @property
    def value(self) -> float | None:
        """The value, in the claim's units; None where it is undefined."""
        return self.estimate.value

    @property
    def profile(self) -> list[float | None]:
        """The value at every block, from block 0 on."""
        return self.curve("profile").y

    def curve(self, name: str) -> Curve:
        """One of the curves beside the value.

        Raises:
            GeometryBenchError: there is none of that name.
        """
        curves = self.estimate.curves
        if name not in curves:
            raise GeometryBenchError(
                f"{self.judgement.where} has no curve {name!r}: it has {', '.join(curves) or 'none'}."
            )
        return curves[name]


@dataclass(frozen=True)
class Results(Sequence[Result]):
    """Measurements in their order, judged together. ``results["safety.baseline_sign"]`` is one of them."""

    measurements: tuple[Measurement, ...]
    baselines: Baselines | None = None
    claims: Mapping[str, Claim] = field(default_factory=lambda: CLAIMS, repr=False)
    margins: Margins = field(default_factory=dict)

    @cached_property
    def judgements(self) -> tuple[Judgement, ...]:
        """The judgement of each."""
        return tuple(judge_run(self.measurements, self.baselines, self.claims, self.margins))

    def __len__(self) -> int:
        return len(self.judgements)

    def __iter__(self) -> Iterator[Result]:
        return map(Result, self.judgements)

    def __getitem__(self, which: Any) -> Any:
        """By place, or by case: ``claim``, ``claim[case]`` or ``(case, subject)``.

        Raises:
            GeometryBenchError: no case has that name, or several subjects have it and none is named.
        """
        if isinstance(which, int | slice):
            found = self.judgements[which]
            return Result(found) if isinstance(found, Judgement) else tuple(map(Result, found))
        key, subject = which if isinstance(which, tuple) else (which, None)
        named = [
            one
            for one in self.judgements
            if one.measurement.key == key and subject in (None, one.measurement.subject.id)
        ]
        if len(named) == 1:
            return Result(named[0])
        if named:
            subjects = ", ".join(one.measurement.subject.id for one in named)
            raise GeometryBenchError(f"{key} was measured on {subjects}: name one, as results[{key!r}, SUBJECT].")
        cases = dict.fromkeys(one.measurement.key for one in self.judgements)
        near = [case for case in cases if case.startswith(f"{key}[")] or list(cases)[:8]
        raise GeometryBenchError(f"There is no {key} among these results: there are {', '.join(near) or 'none'}.")

    def table(self, *, whole: bool = True, width: int | None = None) -> str:
        """The table that ends a run, as text: one a subject, or with ``whole`` false many models side by side.

        ``width`` is the number of columns that lines may have, None for as many as they take.
        """
        return summary_tables(self.judgements, whole=whole, width=width)

    def to_frame(self) -> pandas.DataFrame:
        """One row a case, as a pandas data frame.

        Raises:
            GeometryBenchError: pandas is not installed.
        """
        return _pandas().DataFrame([_flat(one) for one in self.judgements])

    def curves(self) -> pandas.DataFrame:
        """One row a place of each curve of both variants: case, subject, variant, curve, axis, x, y, low and high.

        Raises:
            GeometryBenchError: pandas is not installed.
        """
        return _pandas().DataFrame([row for one in self.measurements for row in _places(one)], columns=_PLACE)

    def save(self, folder: str | Path) -> Path:
        """Append the measurements to ``records.jsonl`` of a folder; judgements are derived when read."""
        file = ResultsFile(Path(folder))
        for one in self.measurements:
            file.write(one)
        return file.path


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise GeometryBenchError("A data frame needs pandas: pip install pandas.") from None
    return pandas


def _flat(one: Judgement) -> dict[str, Any]:
    measured, null = one.measurement, one.measurement.estimate.null if one.measurement.estimate is not None else None
    published = measured.estimates.get("published")
    return {
        **_named(measured),
        **{name: getattr(measured.subject, name, None) for name in ("settings", "alignment")},
        **{name: getattr(measured.estimate, name, None) for name in _OF_ESTIMATE},
        **{f"null_{name}": getattr(null, name, None) for name in ("low", "high", "percentile")},
        "value_published_variant": published.value if published is not None else None,
        "published": one.published.number("reported"),
        "baseline": one.baseline.number("old"),
        "verdict": str(one.claim.verdict),
        "verdict_published": str(one.published.verdict),
        "verdict_baseline": str(one.baseline.verdict),
        "reason": one.claim.sentence,
    }


def _named(one: Measurement) -> dict[str, str]:
    return {"claim": one.claim, "case": one.case, "subject": one.subject.id, "revision": one.subject.revision}


_OF_ESTIMATE = ("value", "error", "low", "high", "n", "block", "label")
_PLACE = ("claim", "case", "subject", "revision", "variant", "curve", "axis", "x", "y", "low", "high")


def _places(one: Measurement) -> Iterator[dict[str, Any]]:
    for variant, estimate in one.estimates.items():
        for name, curve in estimate.curves.items():
            undefined = [None] * len(curve.x)
            for x, y, low, high in zip(curve.x, curve.y, curve.low or undefined, curve.high or undefined, strict=True):
                named = {**_named(one), "variant": variant, "curve": name, "axis": curve.axis}
                yield {**named, "x": x, "y": y, "low": low, "high": high}


def measure(
    *models: Any,
    tokenizer: Any = None,
    family: str | Path | None = None,
    group: str | Path | None = None,
    reference: str | None = None,
    claims: str | Sequence[str] | Mapping[str, Claim] = (),
    name: str = "model",
    alignment: str | None = None,
    template_arguments: Sequence[str] = (),
    sets: Mapping[str, str] | None = None,
    requests: int = RequestSettings.count,
    prompts: str | Path | None = None,
    depth: float = DEPTH,
    baselines: str | Path | None = None,
    cache: bool = True,
    capture: CaptureSettings | None = None,
) -> Results:
    """Measure claims on models, on a family's weights, or on a group about its reference.

    Args:
        models: Hub ids, folders, ``zoo/…`` or :class:`SubjectSpec`; or one model in memory, with its ``tokenizer``, called
            ``name``. Its hooks, mode and random state are left as they are.
        tokenizer: of a model in memory.
        family: manifest of a family, whose members and weights are measured.
        group: manifest of a group.
        reference: makes the models a group about this one of them.
        claims: ids or patterns such as ``safety.*``, or claims by id; all if empty.
        name: what a model in memory is called.
        alignment: how the models were aligned, such as ``SFT + DPO``.
        template_arguments: ``KEY=VALUE`` each, for the chat template.
        sets: requests to measure with, by role: a public set, a data set of the Hub, or a file.
        requests: how many are drawn of each class.
        prompts: a prompt pack in place of the built-in one.
        depth: relative depth of the block at which a group is measured.
        baselines: folder of baselines to compare with, beside the bundled ones.
        cache: keep activations and decompositions on disk.
        capture: how forward passes are batched, and whether bars are shown.

    Raises:
        GeometryBenchError: any input is bad, or a subject cannot be loaded.
    """
    patterns = (claims,) if isinstance(claims, str) else claims
    chosen = dict(patterns) if isinstance(patterns, Mapping) else chosen_claims(tuple(patterns))
    live: tuple[Subject, ...] = ()
    if tokenizer is not None:
        if len(models) != 1:
            raise GeometryBenchError("A tokenizer goes with one model in memory: give both, and nothing else.")
        wrapped = Subject.wrap(
            models[0], tokenizer, name=name, alignment=alignment, template_arguments=template_arguments
        )
        live, models = (wrapped,), ()
    specs = [
        one if isinstance(one, SubjectSpec) else SubjectSpec(_model_name(one), alignment=alignment) for one in models
    ]
    families = () if family is None else (load_family(Path(family)),)
    specs += [found.spec(member) for found in families for member in found.members]
    specs = [_with_arguments(spec, template_arguments) for spec in specs]
    groups: tuple[Group, ...] = () if group is None else (load_group(Path(group)),)
    groups = tuple(
        replace(
            one, members={member: _with_arguments(spec, template_arguments) for member, spec in one.members.items()}
        )
        for one in groups
    )
    if reference is not None:
        groups = (*groups, group_of(specs, reference))
    request = Request(
        specs=tuple(specs),
        live=live,
        groups=groups,
        families=families,
        claims=chosen,
        settings=Settings(
            prompts=None if prompts is None else Path(prompts),
            requests=RequestSettings(requests, sources=tuple((sets or {}).items())),
            depth=depth,
            capture=capture or CaptureSettings(),
            cache=cache,
        ),
    )
    return measured(request, BaselineStore.beside(None if baselines is None else Path(baselines)))


def measured(request: Request, store: BaselineStore | None = None) -> Results:
    """Measure what a request asks for.

    Raises:
        GeometryBenchError: any input is bad, or a subject cannot be loaded.
    """
    laid_out = plan(request)
    if not laid_out.tasks:
        needed = dict.fromkeys(one.sentence for one in laid_out.missing)
        raise GeometryBenchError(f"There is nothing to measure: {'; '.join(needed)}.")
    found: list[Measurement] = []
    for one in execute(Session(laid_out)):
        if isinstance(one, Failure):
            raise one.error
        found.append(one)
    return Results(tuple(found), None if store is None else StoredBaselines(store), laid_out.claims)


def _with_arguments(spec: SubjectSpec, arguments: Sequence[str]) -> SubjectSpec:
    return replace(spec, template_arguments=tuple(sorted(set(arguments)))) if arguments else spec


def _model_name(model: Any) -> str:
    if isinstance(model, str | Path):
        return str(model)
    raise GeometryBenchError(
        f"A {type(model).__name__} is no name of a model: give a Hub id or a folder, or a model in memory with tokenizer=."
    )


def load(path: str | Path) -> Results:
    """Measurements of a results folder, of a file in one, of a baseline, or of all baselines below a folder.

    Raises:
        GeometryBenchError: there are none, or a file is damaged.
    """
    latest = {one.place: one.measurement for one in read_kept(Path(path))}
    return Results(tuple(latest.values()))


def opened(name: str, claims: Sequence[str] = (), beside: str | None = None) -> Results:
    """What a results folder or baselines hold, or what is measured now on a model (``gate.*`` where no claims are named).

    A model is read with the prompts that the family of ``beside`` names, where that is a member of one.

    Raises:
        GeometryBenchError: there are no measurements, or the model cannot be measured.
    """
    place = Path(name)
    if place.exists() and not (place / "config.json").is_file() and place.suffix != ".gguf":
        found = load(place)
        wanted = chosen_claims(tuple(claims), found.claims)
        return replace(found, measurements=tuple(one for one in found.measurements if one.claim in wanted))
    spec, parent = SubjectSpec(name), None if beside is None else declared_member(beside)
    if parent is not None:
        spec = replace(spec, prompts=parent.prompts)
    return measure(spec, claims=claims or "gate.*")


def compare(new: Results, old: Results, *, margins: Margins = NO_MARGINS) -> Results:
    """The new measurements, judged against the old ones: each subject with its own, or with the only one of its kind.

    ``margins`` are smallest changes that matter, by claim or case, in place of those that claims declare.
    """
    return Results(new.measurements, Held.holding(old.measurements), new.claims, margins)
