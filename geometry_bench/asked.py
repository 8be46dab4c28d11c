"""From option values, of pytest or of the command line, to a request and what happens to its measurements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from geometry_bench.behavior.judges.choice import JudgeChoice
from geometry_bench.claims.registry import claims_of
from geometry_bench.errors import GeometryBenchError
from geometry_bench.labs.model import CaptureSettings
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.published.load import SOURCES
from geometry_bench.run.bench import Output
from geometry_bench.run.lineage import checkpoints_of
from geometry_bench.run.request import Request, Settings
from geometry_bench.subjects.families import Family, declared_member, embedded_families, load_family
from geometry_bench.subjects.groups import DEPTH, embedded_groups, group_manifest, group_of, load_group
from geometry_bench.subjects.spec import SubjectSpec


def request_of(values: Mapping[str, Any], *, progress: bool = True) -> Request:
    """The request that option values by ``dest`` make: models, members of each ``--family``, groups, families' weights.

    Without any of them, everything embedded, and the publications.

    Raises:
        GeometryBenchError: an ``--alignment`` that is not MODEL=METHOD or names no subject, an option of ``--model``
            without one, ``--evaluate`` without ``--answers``, a manifest that is faulty, two families or groups of one name,
            a group of one, a reference that is no subject.
    """
    names = _pairs("--name", "FOLDER=NAME", values["gb_name"] or ())
    models = [
        SubjectSpec(model, revision=values["gb_revision"], adapter=values["gb_adapter"], name=names.pop(model, None))
        for model in dict.fromkeys(values["gb_model"] or ())
    ]
    if names:
        raise GeometryBenchError(
            f"--name names {', '.join(names)}, which is no --model of this run: spell it as there."
        )
    of_models = [f"--{name}" for name in ("revision", "adapter") if values[f"gb_{name}"] is not None]
    if of_models and not models:
        raise GeometryBenchError(f"{of_models[0]} goes with --model, and none is given: name its model.")
    families = _families(values["gb_family"] or ())
    groups = [load_group(path) for path in dict.fromkeys(map(group_manifest, values["gb_group"] or ()))]
    weights = _families([*(values["gb_family"] or ()), *(values["gb_weights"] or ())])
    nothing_named = not models and not values["gb_checkpoints"] and not weights and not groups
    if nothing_named:
        families = list(embedded_families())
        weights = [family for family in families if family.by_role("useful")]
        groups = list(embedded_groups()) if values["gb_reference"] is None else []
    trajectories = dict(map(checkpoints_of, dict.fromkeys(values["gb_checkpoints"] or ())))
    models += [spec for steps in trajectories.values() for spec in steps.values()]
    members = [family.spec(member) for family in families for member in family.members]
    for spec in models:
        if any(spec.model == member.name != member.model for member in members):
            raise GeometryBenchError(
                f"--model {spec.model} is also a member of a --family of this run: drop one of the two options "
                "(-k chooses members of a family)."
            )
    specs = [*models, *members]
    methods = _methods(values["gb_alignment"] or (), specs, bool(families))
    settings = {
        name: values[f"gb_{name}"] for name in ("dtype", "device", "attention", "trust_remote_code", "allow_pickle")
    }
    settings["template_arguments"] = tuple(sorted(set(values["gb_template_arguments"] or ())))
    specs = [replace(spec, **settings, alignment=methods.get(_label(spec), spec.alignment)) for spec in specs]
    parent = declared_member(values["gb_against"].partition("@")[0]) if values["gb_against"] else None
    if parent is not None:  # a child is read with its parent's prompts, or nothing could be compared
        specs = [replace(spec, prompts=spec.prompts or parent.prompts) for spec in specs]
    if values["gb_reference"] is not None:
        if not specs:
            raise GeometryBenchError(
                "--reference goes with --model or --family, and neither is given: name the models."
            )
        groups.append(group_of(specs, values["gb_reference"]))
    groups = [
        replace(group, members={name: replace(spec, **settings) for name, spec in group.members.items()})
        for group in groups
    ]
    same = [group.id for place, group in enumerate(groups) if group.id in [other.id for other in groups[:place]]]
    if same:
        raise GeometryBenchError(f"Two groups are called {same[0]}: change the name in one of their manifests.")
    return Request(
        claims=claims_of(values["gb_claims"] or ()),
        specs=tuple(specs),
        groups=tuple(groups),
        families=tuple(weights),
        publications=SOURCES if nothing_named else (),
        trajectories=trajectories,
        settings=_settings(values, progress),
    )


def _settings(values: Mapping[str, Any], progress: bool) -> Settings:
    cache = values["gb_activation_cache"]
    if values["gb_evaluate"] and not values["gb_answers"]:
        raise GeometryBenchError("--evaluate goes with --answers, and that is not given: add it.")
    if values["gb_limit"] is not None and not values["gb_evaluate"]:
        raise GeometryBenchError("--limit goes with --evaluate, and no task is named: name one.")
    # A model that judges is loaded where and with the leave that the run's models are, in the dtype that suits itself.
    like = {name: values[f"gb_{name}"] for name in ("device", "trust_remote_code", "allow_pickle")}
    url, key, options = values["gb_judge_url"], values["gb_judge_key_env"], values["gb_judge_option"] or ()
    return Settings(
        prompts=values["gb_prompts"],
        requests=RequestSettings(
            RequestSettings.count if values["gb_requests"] is None else values["gb_requests"],
            sources=tuple(dict(values["gb_set"] or ()).items()),
            tasks=tuple(dict.fromkeys(values["gb_evaluate"] or ())),
            limit=values["gb_limit"],
        ),
        depth=DEPTH if values["gb_depth"] is None else values["gb_depth"],
        capture=CaptureSettings(values["gb_batch_size"], values["gb_token_budget"], progress=progress),
        asked=frozenset(name for name in ("answers", "ruler") if values[f"gb_{name}"]),
        judge=JudgeChoice.of(values["gb_judge"], url, key, options, like=SubjectSpec("", **like)),
        cache=cache != "off",
        cache_dir=Path(cache) if cache and cache != "off" else None,
    )


def output_of(values: Mapping[str, Any]) -> Output:
    """Where measurements go and what they are compared with, from option values by ``dest``."""
    return Output(
        results=values["gb_results"],
        resume=values["gb_resume"],
        baselines=values["gb_baselines"],
        against=values["gb_against"],
        update=values["gb_baseline_update"],
        update_reason=values["gb_update_reason"],
        require_comparison=values["gb_require_comparison"],
        undecided=values["gb_undecided"],
        report=values["gb_report"],
        margins=dict(values["gb_margin"] or ()),
    )


def _methods(declared: Iterable[str], specs: Sequence[SubjectSpec], of_families: bool) -> dict[str, str]:
    """Alignment methods by subject, from ``--alignment``; a folder may be spelled in any way that leads to it."""
    declared_of = _pairs("--alignment", "MODEL=METHOD", declared)
    methods: dict[str, str] = {}
    stray: list[str] = []
    for spelled, method in declared_of.items():
        meant = [_label(spec) for spec in specs if spelled == _label(spec) or _same_folder(spelled, spec.model)]
        methods |= dict.fromkeys(meant, method)
        stray += [] if meant else [spelled]
    if stray:
        families_too = " and no FAMILY/MEMBER of its families" if of_families else ""
        raise GeometryBenchError(
            f"--alignment names {', '.join(stray)}, which is no --model of this run{families_too}: spell it as there."
        )
    return methods


def _same_folder(spelled: str, model: str) -> bool:
    paths = [Path(text).expanduser() for text in (spelled, model)]
    return all(path.is_dir() for path in paths) and paths[0].resolve() == paths[1].resolve()


def _pairs(flag: str, form: str, given: Iterable[str]) -> dict[str, str]:
    """Text of the form KEY=VALUE, as a mapping."""
    pairs = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key or not value:
            raise GeometryBenchError(f"{flag} {text}: write it as {form}.")
        pairs[key] = value
    return pairs


def _label(spec: SubjectSpec) -> str:
    """How ``--alignment`` names a subject."""
    return spec.name or spec.model


def _families(paths: Iterable[str]) -> list[Family]:
    by_name: dict[str, Family] = {}
    for path in paths:
        family = load_family(Path(path))
        same = by_name.setdefault(family.id, family)
        if same.path.resolve() != family.path.resolve():
            # Test ids, records and baselines go by FAMILY/MEMBER: one family's would pass for the other's.
            raise GeometryBenchError(
                f"Two families are called {family.id} ({same.path} and {family.path}): change the name in one of them."
            )
    return list(by_name.values())
