"""Claims × subjects -> records: the one runner that pytest, the command line and sweeps share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geometry_bench.claims.model import Case, Claim, Estimates, Figure, NotApplicableError, Panel, Scope
from geometry_bench.claims.registry import CLAIMS, known_cases
from geometry_bench.claims.requests import Labelled
from geometry_bench.errors import GeometryBenchError
from geometry_bench.labs.family import SHARES, THRESHOLDS, FamilyLab
from geometry_bench.labs.group import GroupLab
from geometry_bench.labs.model import CaptureSettings, Lab, prompts_hash
from geometry_bench.prompts.pack import load_pack
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.published.load import load_publication
from geometry_bench.published.publication import Publication
from geometry_bench.records.environment import environment, peak_memory_bytes
from geometry_bench.records.facts import absent, panel_facts, panel_inputs, together
from geometry_bench.records.files import (
    UPDATE_MODES,
    BaselineStore,
    Found,
    ResultsFile,
    revision_name,
    updated,
    write_atomically,
)
from geometry_bench.records.noise import noise_floor
from geometry_bench.records.schema import (
    SCHEMA,
    BaselineVerdict,
    ClaimVerdict,
    PublishedVerdict,
    Record,
    Verdicts,
    case_key,
)
from geometry_bench.records.verdicts import BaselineAnswer, judge_baseline, judge_claim, judge_published
from geometry_bench.resources import data_root
from geometry_bench.run.labs import Labs
from geometry_bench.run.roster import FAMILY, PinnedFamily, PinnedGroup, Roster, Subject
from geometry_bench.subjects.families import Family
from geometry_bench.subjects.groups import DEPTH, GROUP, Group
from geometry_bench.subjects.hashing import lines_hash
from geometry_bench.subjects.spec import SubjectSpec, resolve

SOURCE_WORDING = "safety_compassion_source"
"""Id of a pack that holds the source's own wording: figures are compared as numbers with such a pack alone."""

PANEL = "panel"
NO_SUBJECT = "the run has no subject of its own: name some with --model or --family"
NONE_NAMED = {
    GROUP: "it needs a group of models: give --group FILE, or several --model and --reference MODEL",
    FAMILY: "it needs a family of checkpoints: give --family FILE, or --weights FILE for its weights alone",
}
"""What stands for a subject that a claim needs and the run does not have."""


@dataclass(frozen=True)
class RunSettings:
    """Everything about a run that is not a subject."""

    prompts: Path | None = None
    results: Path | None = None
    resume: bool = False
    baselines: Path | None = None
    against: str | None = None
    update: tuple[str, ...] = ()
    update_reason: str | None = None
    capture: CaptureSettings = field(default_factory=CaptureSettings)
    requests: RequestSettings = field(default_factory=RequestSettings)
    depth: float = DEPTH
    cache: bool = True
    cache_dir: Path | None = None


def baseline_roots(own: Path | None) -> tuple[Path, ...]:
    """Where baselines are looked for: the user's own folder, then the bundled ones.

    Without a folder of one's own that is the checkout's, or ``baselines`` in the working folder beside an installed package.
    """
    bundled = data_root() / "baselines" / "measured"
    in_checkout = (data_root() / "pyproject.toml").is_file()
    return tuple(dict.fromkeys((own or (bundled if in_checkout else Path("baselines")), bundled)))


class Run:
    """One run: subjects pinned, inputs validated, earlier records read; nothing is loaded or written yet.

    Raises:
        GeometryBenchError: any input is bad. Nothing has been written then.
    """

    def __init__(
        self,
        specs: Sequence[SubjectSpec],
        settings: RunSettings,
        groups: Sequence[Group] = (),
        families: Sequence[Family] = (),
    ) -> None:
        _check_update(settings)
        self.settings = settings
        drawn = {role: settings.requests.load(role) for role, _ in settings.requests.sources}
        if {"safe", "unsafe"} & set(drawn):
            Labelled.of(*(settings.requests.load(role) for role in ("safe", "unsafe")))
        self.pack = load_pack(settings.prompts)
        self.published: Mapping[str, Publication] = {
            source: load_publication(source) for source in dict.fromkeys(claim.source.id for claim in CLAIMS.values())
        }
        self.roster = Roster(specs, groups, families, self._published_alignment)
        self.baselines = BaselineStore(baseline_roots(settings.baselines))
        self.baselines.all()  # a damaged baseline is told before anything is measured
        self.against = self._against(settings.against)
        self.results = ResultsFile(settings.results) if settings.results else None
        self._earlier = self._read_earlier()
        self._records: dict[tuple[str, str], Record] = {}
        self._labs = Labs(
            self.roster,
            self.pack,
            capture=settings.capture,
            requests=settings.requests,
            depth=settings.depth,
            cache=settings.cache,
            cache_dir=settings.cache_dir,
        )

    def _published_alignment(self, name: str) -> str | None:
        found = (published.find(name) for published in self.published.values())
        return next((subject.alignment_method for subject in found if subject and subject.alignment_method), None)

    def _against(self, name: str | None) -> Found | None:
        if name is None:
            return None
        wanted, _, revision = name.partition("@")
        spec, member = self.roster.subjects.get(wanted, (None, None))
        if spec is not None and member is not None and spec.family is not None:
            # A folder of the family's name may lie in the working directory; the member of this run is meant.
            wanted, revision = member.name, revision or revision_name(member.revision)
        elif Path(wanted).exists() or wanted.startswith("zoo/"):
            identity = resolve(SubjectSpec(wanted))
            if self.baselines.revisions(identity.name) or not self.baselines.revisions(wanted):
                wanted, revision = identity.name, revision_name(identity.revision)
        revisions = [r for r in self.baselines.revisions(wanted) if r.startswith(revision)]
        if not revisions:
            stored = ", ".join(self.baselines.names()) or "none"
            raise GeometryBenchError(
                f"--against {name}: no baseline is stored for it (stored: {stored}); "
                "measure it first with --baseline-update=new."
            )
        if len(revisions) > 1:
            raise GeometryBenchError(
                f"--against {name}: baselines of several revisions are stored; "
                f"say which, as {wanted}@{' or @'.join(revisions)}."
            )
        found = next(f for f in self.baselines.all(wanted) if f.path.parent.name == revisions[0])
        if _is_joint(found.baseline.subject) and not (self.roster.groups or self.roster.families):
            raise GeometryBenchError(
                f"--against {name}: that is a baseline of several models together, and this run measures single ones only; "
                "name a single model's, or a group or family to measure."
            )
        return found

    def _read_earlier(self) -> dict[tuple[Any, ...], Record]:
        if not self.settings.resume:
            return {}
        if self.results is None:
            raise GeometryBenchError("--resume needs --results DIR: the folder of the run to go on with.")
        return {_resume_key(record): record for record in self.results.read()}

    @property
    def subjects(self) -> Mapping[str, Subject]:
        """The models measured on their own, by id."""
        return self.roster.subjects

    def targets(self, claim: Claim) -> list[tuple[Case, str]]:
        """Every case of a claim with every subject that it is measured on.

        A claim about groups or families stands once even where the run has none, to say what would supply one.
        """
        if claim.scope == "group" and self.roster.groups:
            return [
                (case, group.id)
                for group in self.roster.groups.values()
                for case in claim.cases_of(tuple(group.members), group.reference)
            ]
        return [(case, subject) for subject in self._of_scope(claim.scope) for case in claim.cases]

    def _of_scope(self, scope: Scope) -> Sequence[str]:
        return {"model": list(self.subjects), "family": list(self.roster.families)}.get(scope) or [scope]

    # measuring

    def record(self, claim: Claim, case: Case, subject: str, comparisons: int = 1) -> Record:
        """The record of one case, measured now or taken from the run that is resumed; computed once.

        Raises:
            GeometryBenchError: the subject cannot be loaded; a :class:`SubjectFailedError` for each case after the first.
        """
        key = (case_key(claim.id, case.key), subject)
        if key not in self._records:
            self._records[key] = self._judged(claim, case, self._measured(claim, case, subject), comparisons)
        return self._records[key]

    def is_resumed(self, record: Record) -> bool:
        """Whether the record's values came from an earlier run."""
        return _resume_key(record) in self._earlier

    def _measured(self, claim: Claim, case: Case, subject: str) -> Record:
        if claim.scope == "panel":
            return self._measured_panel(claim, case)
        if subject in NONE_NAMED:
            return _bare_record(claim, case, absent(subject), {}, {}, NONE_NAMED[subject], time.perf_counter())
        earlier = self._earlier.get(self._key(claim, case, subject))
        if earlier is not None:
            return earlier
        if claim.scope == "group":
            return self._measured_group(claim, case, self.roster.groups[subject])
        if claim.scope == "family":
            return self._measured_family(claim, case, self.roster.families[subject])
        started = time.perf_counter()
        lab = self._labs.model(subject)
        estimates, reason = _measure(claim, case, lab)
        spec, _ = self.subjects[subject]
        facts = lab.subject.facts() | {"id": subject, "requested": _requested(spec)} | _family_facts(spec)
        inputs = lab.inputs(claim.messages, claim.sets, claim.rendering, claim.poolings)
        return _bare_record(claim, case, facts, inputs, estimates, reason, started)

    def _measured_panel(self, claim: Claim, case: Case) -> Record:
        started = time.perf_counter()
        members = [
            {name: self.record(CLAIMS[name], CLAIMS[name].cases[0], subject) for name in claim.reads}
            for subject, *_ in self.roster.checkpoints()  # a checkpoint under two names counts once
        ]
        if not members:
            return _bare_record(claim, case, absent(PANEL), {}, {}, NO_SUBJECT, started)
        estimates, reason = _measure(claim, case, Panel(members))
        records = [next(iter(member.values())) for member in members]
        return _bare_record(claim, case, panel_facts(PANEL, records), panel_inputs(records), estimates, reason, started)

    def _measured_group(self, claim: Claim, case: Case, group: PinnedGroup) -> Record:
        started = time.perf_counter()
        lab = self._labs.group(group)
        estimates, reason = _measure(claim, case, lab)
        members = {member: lab.facts(member) for member in lab.members}
        facts = together(group.id, group.revision, members) | {
            "reference": group.reference,
            "requested": self._requested_of(group.id),
        }
        return _bare_record(claim, case, facts, lab.inputs(), estimates, reason, started)

    def _measured_family(self, claim: Claim, case: Case, family: PinnedFamily) -> Record:
        started = time.perf_counter()
        estimates, reason = _measure(claim, case, self._labs.family(family))
        # Differences of weights are taken in float32 whatever the files hold, and no kernel has a part in them.
        same = {"dtype": "float32", "attention": "none", "quantisation": "none"}
        members = {
            member.name: {"revision": family.members[member.name], "role": member.role, "parent": member.parent, **same}
            for member in family.family.members
        }
        facts = together(family.id, family.revision, members) | {"requested": {}}
        return _bare_record(claim, case, facts, _family_inputs(family), estimates, reason, started)

    def close(self) -> None:
        """Let the loaded model go."""
        self._labs.close()

    def _key(self, claim: Claim, case: Case, subject: str) -> tuple[Any, ...]:
        group, family = self.roster.groups.get(subject), self.roster.families.get(subject)
        revision, adapter, inputs = "", None, ""
        if group is not None:
            revision, inputs = group.revision, self._labs.group(group).pack_hash()
        elif family is not None:
            revision, inputs = family.revision, str(_family_inputs(family)["pack_hash"])
        else:
            _, identity = self.subjects[subject]
            revision, adapter = identity.revision, identity.adapter_hash
            inputs = prompts_hash(self.pack, claim.messages, claim.sets, self.settings.requests)
        requested = tuple(sorted(self._requested_of(subject).items()))
        return (SCHEMA, claim.id, claim.version, case.key, subject, revision, adapter, requested, inputs)

    def _requested_of(self, subject: str) -> dict[str, Any]:
        if subject in self.roster.families:
            return {}
        group = self.roster.groups.get(subject)
        spec, _ = self.roster.known[next(iter(group.members.values())) if group is not None else subject]
        return _requested(spec)

    # judging

    def _judged(self, claim: Claim, case: Case, record: Record, comparisons: int) -> Record:
        method = record.subject.get("alignment")
        estimate, source_estimate = record.estimate, record.estimates.get("published")
        if estimate is None:
            verdict, reason = ClaimVerdict.NOT_APPLICABLE, record.verdicts.claim_reason
        else:
            verdict, reason = judge_claim(claim.criterion, estimate, method)
        figure = self.figure(claim, case, record.subject_name)
        agreement, agreement_reason = judge_published(
            source_estimate,
            figure,
            resolution=claim.source.resolution,
            same_wording=record.inputs.get("pack") == SOURCE_WORDING,
            threshold=claim.criterion.threshold,
            at_most=claim.criterion.at_most,
        )
        answer, found = self._baseline_answer(claim, record, comparisons)
        stored = found.baseline.cases.get(record.key) if found else None
        source_verdict = (
            judge_claim(claim.published_criterion, source_estimate, method)[0]
            if claim.published_criterion is not None and source_estimate is not None
            else None
        )
        return record.model_copy(
            update={
                "criterion_published": source_verdict,
                "verdicts": Verdicts(
                    claim=verdict,
                    claim_reason=reason,
                    published=agreement,
                    published_reason=agreement_reason,
                    published_figure=figure,
                    baseline=answer.verdict,
                    baseline_reason=answer.reason,
                    baseline_value=answer.value,
                    baseline_claim=stored.claim if stored else None,
                    baseline_note=stored.reason if stored else None,
                    p_value=answer.p_value,
                ),
            }
        )

    def figure(self, claim: Claim, case: Case, subject: str) -> float | None:
        """The source's figure for a case on a subject of this run, None where it has none."""
        if claim.figure is None:
            return None
        source, group = self.published[claim.source.id], self.roster.groups.get(subject)
        if group is not None:
            return self._group_figure(claim.figure, case, group, source)
        spec_and_identity = self.roster.known.get(subject)
        published = source.find(spec_and_identity[1].name) if spec_and_identity is not None else None
        return claim.figure(published, case) if published is not None else None

    def _group_figure(self, figure: Figure, case: Case, group: PinnedGroup, source: Publication) -> float | None:
        """A figure of the group that has just these members and this reference: a shared direction depends on them all."""
        found = {member: source.find(self.roster.known[id][1].name) for member, id in group.members.items()}
        subjects = {member: subject for member, subject in found.items() if subject is not None}
        if case.key not in subjects or len(subjects) < len(found):
            return None
        keys = {member: subject.key for member, subject in subjects.items()}
        same = [one for one in source.groups.values() if set(one.members) == set(keys.values())]
        if not same or same[0].reference != keys[group.reference]:
            return None
        return figure(subjects[case.key], case)

    def _baseline_answer(self, claim: Claim, record: Record, comparisons: int) -> tuple[BaselineAnswer, Found | None]:
        subject = record.subject
        same_kind = self.against is not None and _is_joint(self.against.baseline.subject) == _is_joint(subject)
        own = self.baselines.find(str(subject["name"]), str(subject["revision"]), subject)
        found = self.against if same_kind else own
        stored = found.baseline.cases.get(record.key) if found else None
        if found is None:
            others = self.baselines.revisions(str(subject["name"]))
            hint = f"; other revisions are ({', '.join(others)}): compare with --against" if others else ""
            absent = f"no baseline is stored for this revision of {record.subject_name}{hint}"
        else:
            absent = f"the baseline {found.path.parent.parent.name}/{found.path.parent.name} has no such case"
        answer = judge_baseline(
            record.estimate,
            subject,
            record.inputs,
            record.claim_version,
            stored,
            found.baseline.subject if found else {},
            floor=noise_floor(claim.metric, str(subject["dtype"])) if stored else 0.0,
            smallest_change=claim.smallest_change,
            comparisons=comparisons,
            absent=absent,
        )
        return answer, found

    # writing

    def update_baselines(self, records: Sequence[Record]) -> list[Path]:
        """Write the baselines that ``--baseline-update`` asks for; returns the files that changed."""
        written = []
        by_file: dict[Path, list[Record]] = {}
        for record in records:
            if (record.subject_name == PANEL or record.subject_name in NONE_NAMED) and record.estimate is None:
                continue  # that a run had too few subjects is nothing to remember
            by_file.setdefault(self.baselines.path(record.subject), []).append(record)
        for path, group in by_file.items():
            stored = self.baselines.find(
                str(group[0].subject["name"]), str(group[0].subject["revision"]), group[0].subject
            )
            old = stored.baseline if stored is not None and stored.path == path else None
            reason = self.settings.update_reason or "first measurement"
            members = tuple(group[0].subject.get("members", ()))
            new = updated(old, group, self.settings.update, reason, known_cases(members))
            if old is None or new.cases != old.cases:
                write_atomically(path, new.model_dump_json(indent=1, exclude_defaults=False) + "\n")
                written.append(path)
        return written


def _is_joint(subject: Mapping[str, Any]) -> bool:
    """Whether a record's or baseline's subject is several checkpoints together."""
    return "members" in subject


def _check_update(settings: RunSettings) -> None:
    unknown = set(settings.update) - set(UPDATE_MODES)
    if unknown:
        raise GeometryBenchError(
            f"--baseline-update={','.join(sorted(unknown))} is not known: "
            f"use any of {', '.join(UPDATE_MODES)}, comma-separated."
        )
    if {"changed", "trim"} & set(settings.update) and not settings.update_reason:
        raise GeometryBenchError('Replacing or dropping stored baselines needs a reason: add --update-reason "...".')


def _measure(claim: Claim, case: Case, lab: Lab | Panel | GroupLab | FamilyLab) -> tuple[Estimates, str]:
    if isinstance(lab, Lab) and "system role" in claim.needs and lab.subject.chat.system_policy == "not_applicable":
        return {}, "the chat template has no place for a system prompt; use a template with a system role"
    try:
        return claim.measure(lab, case), ""
    except NotApplicableError as reason:
        return {}, str(reason)


def _family_inputs(family: PinnedFamily) -> dict[str, Any]:
    """What a record says of updates, which have no prompts: between which members they lie, and the grids."""
    content = f"{SHARES} {THRESHOLDS} {sorted(family.members)}"
    return {
        "pack": "weights",
        "pack_hash": lines_hash([content]),
        "controls": None,
        "messages": [],
        "pooling": "none",
        "site": "weights",
        "template_hash": None,
        "system_policy": None,
    }


def _family_facts(spec: SubjectSpec) -> dict[str, str]:
    facts = {"family": spec.family, "role": spec.role, "parent": spec.parent}
    return {name: fact for name, fact in facts.items() if fact is not None}


def _requested(spec: SubjectSpec) -> dict[str, Any]:
    return {"dtype": spec.dtype, "device": spec.device, "attention": spec.attention}


def _resume_key(record: Record) -> tuple[Any, ...]:
    subject = record.subject
    return (
        record.schema_version,
        record.claim,
        record.claim_version,
        record.case,
        record.subject_name,  # two members of a family may have the same weights; each has records of its own
        subject.get("revision"),
        subject.get("adapter_hash"),
        tuple(sorted(subject.get("requested", {}).items())),
        record.inputs.get("pack_hash"),
    )


def _bare_record(
    claim: Claim,
    case: Case,
    subject: dict[str, Any],
    inputs: dict[str, Any],
    estimates: Estimates,
    reason: str,
    started: float,
) -> Record:
    return Record(
        claim=claim.id,
        claim_version=claim.version,
        case=case.key,
        subject=subject,
        inputs=inputs,
        estimates=dict(estimates),
        verdicts=Verdicts(
            claim=ClaimVerdict.NOT_APPLICABLE,
            claim_reason=reason,
            published=PublishedVerdict.NO_FIGURE,
            published_reason="not judged yet",
            baseline=BaselineVerdict.NO_BASELINE,
            baseline_reason="not judged yet",
        ),
        environment=environment()
        | {"seed": 0, "seconds": round(time.perf_counter() - started, 4), "peak_memory_bytes": peak_memory_bytes()},
    )
