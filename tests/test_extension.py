"""What a change costs: each thing that can be added is added here, in this file alone, and runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from conftest import SMALL
from models import tiny_model
from planted import NOT_SHOWN, made_up

from geometry_bench.activations.pooling import Pooling
from geometry_bench.claims.criteria import Above
from geometry_bench.claims.model import Case, Claim, Estimates
from geometry_bench.claims.sources import SAFETY_COMPASSION
from geometry_bench.judging import judge_run
from geometry_bench.labs.group import GroupLab
from geometry_bench.labs.memo import Memo, remembered
from geometry_bench.labs.model import Lab
from geometry_bench.labs.panel import Panel
from geometry_bench.labs.prompt_inputs import prompt_inputs
from geometry_bench.labs.requirements import LAST_KEPT, MEAN, Requirements
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.records.estimates import Estimate
from geometry_bench.records.facts import (
    Facts,
    Inputs,
    MemberFacts,
    ModelFacts,
    OtherFacts,
    PromptInputs,
    panel_revision,
)
from geometry_bench.records.files import ResultsFile
from geometry_bench.records.judgement import ClaimVerdict
from geometry_bench.records.measurement import Measurement
from geometry_bench.report import formats
from geometry_bench.report.board import board
from geometry_bench.run.execute import Session, execute
from geometry_bench.run.pinning import Pinned
from geometry_bench.run.plan import plan
from geometry_bench.run.request import Request, Settings
from geometry_bench.run.targets import Labs, ModelTarget, Prompts, Target
from geometry_bench.subjects.families import load_family
from geometry_bench.subjects.groups import group_of
from geometry_bench.subjects.spec import SubjectSpec
from geometry_bench.updates.update import update_between

SETTINGS = Settings(requests=RequestSettings(4), capture=NOT_SHOWN, cache=False)
SAFE = Requirements(sets=("safe",), poolings=(MEAN,))


def declared(id: str, measure: Any, scope: str = "model", **more: Any) -> Claim:
    """A record with what every claim says."""
    criterion = Above(beyond_null=False)
    return Claim(id, SAFETY_COMPASSION, "here", "It is so.", measure, "none", scope=scope, criterion=criterion, **more)


def value(number: float) -> Estimates:
    return {"corrected": Estimate(value=number, n=1)}


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> tuple[SubjectSpec, ...]:
    """Two models; the first is the base of a family, ``family.toml`` beside them."""
    folder = tmp_path_factory.mktemp("extension")
    models = [tiny_model("llama", folder, name=name, seed=seed, **SMALL) for seed, name in enumerate(("base", "made"))]
    base, made = '[[members]]\nrole = "base"\nmodel = "base"\n', '[[members]]\nrole = "aligned"\nmodel = "made"\n'
    manifest = f'schema = 1\nname = "tiny"\n{base}{made}parent = "base"\n'
    (folder / "family.toml").write_text(manifest, encoding="utf-8")
    return tuple(SubjectSpec(str(model)) for model in models)


def run(*claims: Claim, **subjects: Any) -> dict[tuple[str, str], Measurement]:
    """The measurements of some claims, by case and subject."""
    request = Request(**subjects, claims={claim.id: claim for claim in claims}, settings=SETTINGS)
    found = list(execute(Session(plan(request))))
    return {(one.key, one.subject.id): one for one in found if isinstance(one, Measurement)}


# A claim of each scope


def mean_norm(lab: Lab, case: Case) -> Estimates:
    return value(np.linalg.norm(lab.requests("safe", rendering="text", poolings=(MEAN,)).states[MEAN].mean(axis=0)))


def distance(group: GroupLab, case: Case) -> Estimates:
    member, reference = (group.states(name, "safe").mean(axis=0) for name in (case.key, group.reference))
    return value(np.linalg.norm(member - reference))


def largest(panel: Panel, case: Case) -> Estimates:
    return value(max(found["new.norm"].estimate.value for found in panel.members.values()))  # type: ignore[union-attr,type-var]


NORM = declared("new.norm", mean_norm, requires=SAFE)
CLAIMS = (
    NORM,
    declared("new.distance", distance, "group", requires=SAFE, per_member="others"),
    declared(
        "new.update", lambda lab, case: value(len(update_between(lab.family, *lab.family.members).names)), "family"
    ),
    declared("new.largest", largest, "panel", reads=("new.norm",), requires=SAFE),
    declared("new.subjects", lambda publication, case: value(len(publication.subjects)), "publication"),
)


def test_a_claim_of_any_scope_is_its_record_and_a_measure(specs: tuple[SubjectSpec, ...], tmp_path: Path) -> None:
    found = run(
        *CLAIMS,
        specs=specs,
        groups=(group_of(specs, specs[0].model),),
        families=(load_family(Path(specs[0].model).parent),),
        publications=(SAFETY_COMPASSION.id,),
    )
    assert list(found) == [
        ("new.norm", "base"),
        ("new.norm", "made"),
        ("new.distance[made]", "group/run"),
        ("new.update", "family/tiny"),
        ("new.subjects", "safety_compassion"),
        ("new.largest", "panel"),
    ]
    norms = [one.estimate.value for key, one in found.items() if key[0] == "new.norm" and one.estimate]
    assert found["new.largest", "panel"].estimate == Estimate(value=max(norms), n=1)  # type: ignore[type-var]
    claims = {claim.id: claim for claim in CLAIMS}
    judged = judge_run(found.values(), claims=claims)
    assert {one.claim.verdict for one in judged} == {ClaimVerdict.HOLDS}
    assert [table.claim for table in board(judged, claims=claims)] == [claim.id for claim in CLAIMS]
    file = ResultsFile(tmp_path)
    for one in found.values():
        file.write(one)
    assert file.read() == list(found.values())


# Another set, pooling or rendering


def spread(role: str, pooling: Pooling, lab: Lab, case: Case) -> Estimates:
    return value(lab.requests(role, rendering="text", poolings=(pooling,)).states[pooling].std(axis=0).mean())


def test_a_claim_that_reads_something_else_changes_its_record_alone(specs: tuple[SubjectSpec, ...]) -> None:
    first = declared("new.spread", partial(spread, "safe", MEAN), requires=SAFE)
    requires = Requirements(sets=("unsafe",), poolings=(LAST_KEPT,))
    other = replace(first, id="new.other", measure=partial(spread, "unsafe", LAST_KEPT), requires=requires)
    found = run(first, other, specs=specs[:1])
    for claim, role, pooling in ((first, "safe", MEAN), (other, "unsafe", LAST_KEPT)):
        one = found[claim.id, "base"]
        assert isinstance(one.inputs, PromptInputs)
        assert ([drawn.name for drawn in one.inputs.requests], one.inputs.pooling) == ([role], pooling.name)


def test_claims_about_one_group_read_each_what_it_requires(specs: tuple[SubjectSpec, ...]) -> None:
    first = CLAIMS[1]
    chat = replace(SAFE, rendering="chat", poolings=(LAST_KEPT,))
    other = replace(first, id="new.other", requires=chat)
    group = group_of(specs, specs[0].model)
    together, alone = run(first, other, groups=(group,)), run(other, groups=(group,))
    place = ("new.other[made]", "group/run")
    assert together[place].content() == alone[place].content()
    assert together[place].estimates != together["new.distance[made]", "group/run"].estimates


# A format


def test_a_format_is_a_module_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'def render(tables):\n    return " ".join(table.claim for table in tables) + "\\n"\n'
    (tmp_path / "names_only.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path)])
    assert "names_only" in formats.formats()
    tables = board(judge_run([made_up(NORM.id, 1.0)], claims={NORM.id: NORM}), claims={NORM.id: NORM})
    assert formats.render(tables, "names_only") == "new.norm\n"


# A kind of subject


class TrajectoryLab(Memo):
    """Checkpoints of one training run in their order, loaded one after another."""

    def __init__(self, labs: Labs, steps: Mapping[str, ModelTarget]) -> None:
        super().__init__()
        self.labs, self.steps = labs, steps

    @remembered
    def mean(self, step: str) -> Any:
        """Mean output of the final block over safe requests, (width,)."""
        states = self.labs.model(self.steps[step]).requests("safe", rendering="text", poolings=(MEAN,)).states[MEAN]
        return states[:, -1].mean(axis=0)

    @remembered
    def facts(self, step: str) -> ModelFacts:
        return self.labs.model(self.steps[step]).facts(step)


@dataclass(frozen=True)
class Trajectory(Target):
    """Checkpoints of one training run by step."""

    scope = "series"
    id: str
    steps: Mapping[str, ModelTarget]

    @property
    def revision(self) -> str:  # type: ignore[override]
        return panel_revision({name: target.revision for name, target in self.steps.items()})

    def inputs_hash(self, claim: Claim, prompts: Prompts) -> str:
        return claim.requires.inputs_hash(prompts.pack, prompts.requests)

    def open(self, labs: Labs, claim: Claim) -> TrajectoryLab:
        return labs.kept(self.id, lambda: TrajectoryLab(labs, self.steps))

    def facts(self, lab: TrajectoryLab) -> Facts:
        members = {step: MemberFacts.of(lab.facts(step)) for step in self.steps}
        return OtherFacts(id=self.id, name=self.id, revision=self.revision, what=self.scope, members=members)

    def inputs(self, lab: TrajectoryLab, claim: Claim) -> Inputs:
        (last,) = list(self.steps)[-1:]
        return prompt_inputs(lab.labs.model(self.steps[last]), claim.requires)


def moved(lab: TrajectoryLab, case: Case) -> Estimates:
    first, *_, last = (lab.mean(step) for step in lab.steps)
    return value(np.linalg.norm(last - first))


def test_a_kind_of_subject_is_a_target_and_a_lab(specs: tuple[SubjectSpec, ...], tmp_path: Path) -> None:
    models = Pinned(specs, (), (), ()).models
    trajectory = Trajectory("tiny/run", MappingProxyType({f"step-{n}": one for n, one in enumerate(models.values())}))
    claim = declared("new.moved", moved, "series", requires=SAFE)
    request = Request(targets=(trajectory,), claims={claim.id: claim}, settings=SETTINGS)
    (one,) = execute(Session(plan(request)))
    assert isinstance(one, Measurement)
    assert isinstance(one.subject, OtherFacts)
    assert (one.subject.what, list(one.subject.members)) == ("series", ["step-0", "step-1"])
    (judged,) = judge_run([one], claims={claim.id: claim})
    assert judged.claim.verdict is ClaimVerdict.HOLDS
    file = ResultsFile(tmp_path)
    file.write(one)
    again = Session(plan(request), file.read())
    assert again.is_resumed(again.measure(again.plan.tasks[0]))
    (missing,) = plan(Request(claims={claim.id: claim})).missing
    assert missing.sentence == "it needs a series"
