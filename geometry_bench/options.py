"""The options that plugin and command line share, declared once.

Every pytest run of an environment declares them, so that nothing heavy is imported before something is measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from geometry_bench.errors import GeometryBenchError
from geometry_bench.prompts.roles import ROLES, RequestSettings
from geometry_bench.subjects.families import Family, embedded_families, load_family
from geometry_bench.subjects.groups import DEPTH, embedded_groups, group_manifest, group_of, load_group
from geometry_bench.subjects.spec import SubjectSpec

if TYPE_CHECKING:
    from geometry_bench.run.bench import Output
    from geometry_bench.run.request import Request, Settings


@dataclass(frozen=True)
class Option:
    """One option: how it is spelled, what it means, how its text becomes a value."""

    flag: str
    help: str
    metavar: str | None = None
    kind: Literal["value", "flag", "repeated"] = "value"
    parse: Callable[[str], Any] = str
    default: Any = None

    @property
    def dest(self) -> str:
        """Name under which pytest keeps it; prefixed, since other plugins share the name space."""
        return "gb_" + self.flag.lstrip("-").replace("-", "_")

    def parsed(self, given: Any) -> Any:
        """The value of text as a command line gives it, or the default.

        Raises:
            GeometryBenchError: the text is none of the values.
        """
        if given is None or self.kind == "flag":
            return self.default if given is None else given
        try:
            return [self.parse(text) for text in given] if self.kind == "repeated" else self.parse(given)
        except GeometryBenchError as error:
            raise GeometryBenchError(f"{self.flag}: {str(error).removeprefix(f'{self.flag} ')}") from None

    def for_argparse(self) -> dict[str, Any]:
        """What argparse needs to know of it."""
        if self.kind == "flag":
            return {"default": False}

        def convert(text: str) -> Any:
            try:
                return self.parse(text)
            except GeometryBenchError as error:
                raise argparse.ArgumentTypeError(str(error)) from None

        return {"metavar": self.metavar, "default": self.default, "type": convert}


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise GeometryBenchError(f"'{text}' is not a count: give a whole number from 1 on.")
    return int(text)


def _requests(text: str) -> int:
    from geometry_bench.prompts.sets import load_set

    return len(load_set("unsafe")) if text.casefold() == "all" else _count(text)


def _depth(text: str) -> float:
    try:
        depth = float(text)
    except ValueError:
        depth = -1.0
    if not 0 <= depth <= 1:
        raise GeometryBenchError(
            f"'{text}' is not a relative depth: give a number from 0 (first block) to 1 (last block)."
        )
    return depth


def _role(text: str) -> tuple[str, str]:
    role, equals, name = text.partition("=")
    if not equals or not name or role not in ROLES:
        raise GeometryBenchError(f"--set {text}: write it as ROLE=SET, where ROLE is one of {', '.join(ROLES)}.")
    return role, name


def _modes(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


OPTIONS: tuple[Option, ...] = (
    Option(
        "--model",
        "Subject to measure: a Hub id (org/name, org/name@revision), a local folder, a GGUF file, or zoo/... for an "
        "embedded model. Repeatable; without it, --family, --group and --weights everything embedded is measured.",
        "MODEL",
        "repeated",
    ),
    Option(
        "--family",
        "Family to measure: a family.toml, or the folder that holds it, which names a base model and the models made "
        "from it (folders or Hub ids) with their roles and alignment. Each member becomes a subject FAMILY/MEMBER, to be "
        "chosen with pytest's -k. Repeatable; adds to --model.",
        "FILE",
        "repeated",
    ),
    Option(
        "--group",
        "Group of models to compare with a reference model: a TOML file that names its members and the reference (see "
        "docs/groups.md), or zoo/groups/NAME. Its members are measured on their own only where --model or --family names "
        "them. Repeatable.",
        "FILE",
        "repeated",
    ),
    Option(
        "--reference",
        "Makes the run's subjects a group with this one as reference, spelled as its --model or FAMILY/MEMBER: unsafe "
        "directions of the others are mapped into its space.",
        "MODEL",
    ),
    Option(
        "--depth",
        f"Relative depth of the block at which a group is measured, 0 to 1 (default: {DEPTH:.2f}); other depths are "
        "recorded beside it.",
        "D",
        parse=_depth,
        default=DEPTH,
    ),
    Option(
        "--weights",
        "Family whose weight updates are measured, without its members as subjects: a family.toml, the folder that holds "
        "it, or zoo/NAME. Weights are read tensor by tensor and no model is loaded. --family measures the weights too. "
        "Repeatable.",
        "FILE",
        "repeated",
    ),
    Option(
        "--revision",
        "Branch, tag or commit of the Hub models named with --model; the commit is resolved before loading and recorded.",
        "REV",
    ),
    Option(
        "--dtype", "auto (default), float32, bfloat16, float16. auto: see docs/first-run.md.", "DTYPE", default="auto"
    ),
    Option(
        "--device", "auto (default), cpu, cuda, cuda:1, mps, or map (spread over devices).", "DEVICE", default="auto"
    ),
    Option(
        "--attention", "Attention kernel: sdpa, eager, flash_attention_2, ...; the effective one is recorded.", "KERNEL"
    ),
    Option("--adapter", "PEFT adapter folder to put on the --model (extra: adapters).", "DIR"),
    Option(
        "--alignment",
        "How a subject was aligned, e.g. org/name='SFT + DPO'; decides which sign safety.baseline_sign expects. "
        "Repeatable; known for the published subjects and the zoo, and read from family manifests (FAMILY/MEMBER=... "
        "overrides them).",
        "MODEL=METHOD",
        "repeated",
    ),
    Option("--trust-remote-code", "Run model code that comes with the checkpoint. Off by default.", kind="flag"),
    Option("--allow-pickle", "Load pickled weights where there are no safetensors. Off by default.", kind="flag"),
    Option(
        "--claims",
        "Python file that declares further claims, as CLAIMS (see docs/add-a-claim.md); packages declare theirs by the "
        "entry point geometry_bench.claims. The file's code is run. Repeatable.",
        "FILE",
        "repeated",
    ),
    Option("--prompts", "Prompt pack (TOML) to measure with instead of the built-in one.", "FILE", parse=Path),
    Option(
        "--requests",
        "Requests drawn from each class of the built-in sets (default: 60), or all (300): intervals shrink with more.",
        "N|all",
        parse=_requests,
    ),
    Option(
        "--set",
        f"Requests that replace a built-in set, as ROLE=SET: a public set (advbench, xstest, ...), org/name "
        f"of a data set on the Hub, or FILE[:COLUMN] (csv, json, jsonl, parquet, txt). Roles: "
        f"{', '.join(ROLES)}. Repeatable.",
        "ROLE=SET",
        "repeated",
        parse=_role,
    ),
    Option(
        "--results",
        "Folder for records.jsonl: one measurement on each line, written when its case is done.",
        "DIR",
        parse=Path,
    ),
    Option(
        "--resume", "Take over the cases that the --results folder already holds and measure the rest.", kind="flag"
    ),
    Option(
        "--baselines",
        "Folder of your own baselines, read before the bundled ones; --baseline-update writes there.",
        "DIR",
        parse=Path,
    ),
    Option(
        "--against", "Compare with another subject's stored baseline, such as a fine-tune with its parent.", "SUBJECT"
    ),
    Option(
        "--require-comparison",
        "Fail a case that cannot be compared with a baseline: none stored, other inputs, other settings.",
        kind="flag",
    ),
    Option(
        "--name",
        "Name of a local folder for records, baselines and published values, as FOLDER=NAME: ./copy=ORG/NAME for an exact "
        "copy of a Hub model. Repeatable.",
        "FOLDER=NAME",
        "repeated",
    ),
    Option(
        "--baseline-update",
        "Store baselines: new (missing cases), changed (values that moved), trim (cases no claim declares any more); any "
        "combination, comma-separated.",
        "MODES",
        parse=_modes,
        default=(),
    ),
    Option(
        "--update-reason", "Why baselines are stored or replaced; kept with them. Needed for changed and trim.", "TEXT"
    ),
    Option("--batch-size", "Prompts in a batch; default: as many as the token budget allows.", "N", parse=_count),
    Option(
        "--token-budget", "Tokens in a batch, padding included; default: 1024 on CPU, more on a GPU.", "N", parse=_count
    ),
    Option("--activation-cache", "Folder of the activation cache, or off.", "DIR|off"),
)


def request_of(values: Mapping[str, Any], *, progress: bool = True) -> Request:
    """The request that option values by ``dest`` make: models, members of each ``--family``, groups, families' weights.

    Without any of them, everything embedded, and the publications.

    Raises:
        GeometryBenchError: an ``--alignment`` that is not MODEL=METHOD or names no subject, an option of ``--model``
            without one, a manifest that is faulty, two families or groups of one name, a group of one, a reference that is
            no subject.
    """
    from geometry_bench.claims.registry import claims_of
    from geometry_bench.published.load import SOURCES
    from geometry_bench.run.request import Request

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
    nothing_named = not models and not weights and not groups
    if nothing_named:
        families = list(embedded_families())
        weights = [family for family in families if family.by_role("useful")]
        groups = list(embedded_groups()) if values["gb_reference"] is None else []
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
    specs = [replace(spec, **settings, alignment=methods.get(_label(spec), spec.alignment)) for spec in specs]
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
        settings=_settings(values, progress),
    )


def _settings(values: Mapping[str, Any], progress: bool) -> Settings:
    from geometry_bench.labs.model import CaptureSettings
    from geometry_bench.run.request import Settings

    cache = values["gb_activation_cache"]
    return Settings(
        prompts=values["gb_prompts"],
        requests=RequestSettings(
            RequestSettings.count if values["gb_requests"] is None else values["gb_requests"],
            sources=tuple(dict(values["gb_set"] or ()).items()),
        ),
        depth=values["gb_depth"],
        capture=CaptureSettings(values["gb_batch_size"], values["gb_token_budget"], progress=progress),
        cache=cache != "off",
        cache_dir=Path(cache) if cache and cache != "off" else None,
    )


def output_of(values: Mapping[str, Any]) -> Output:
    """Where measurements go and what they are compared with, from option values by ``dest``."""
    from geometry_bench.run.bench import Output

    return Output(
        results=values["gb_results"],
        resume=values["gb_resume"],
        baselines=values["gb_baselines"],
        against=values["gb_against"],
        update=values["gb_baseline_update"],
        update_reason=values["gb_update_reason"],
        require_comparison=values["gb_require_comparison"],
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
