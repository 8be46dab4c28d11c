"""The gate on the zoo, end to end: what it lets through, what it stops, what it cannot tell, what it cannot compare."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Shell
from safetensors.torch import load_file, save_file

import geometry_bench as gb
from geometry_bench.behavior.rounding import COPIES, copied
from geometry_bench.claims.changes import ContrastDisplacement, OpeningShift, folded
from geometry_bench.geometry.frozen import transfer
from geometry_bench.geometry.rates import least_error
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.records.estimates import Estimate, Packed, Sample
from geometry_bench.records.judgement import BaselineVerdict
from geometry_bench.report.comparison_text import plain
from geometry_bench.resources import data_root
from geometry_bench.subjects.load import load
from geometry_bench.subjects.spec import SubjectSpec, resolve

FAMILY = data_root() / "fixtures" / "zoo" / "llama-d80"
PARENT = "zoo/llama-d80/aligned"
GATE = ("--claim", "gate.*", "--requests", "40")


@pytest.fixture(scope="module")
def baselines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parent's gate, stored."""
    folder = tmp_path_factory.mktemp("gate")
    found = gb.measure(PARENT, claims="gate.*", requests=40)
    from geometry_bench.records.baselines import BaselineStore, update_baselines

    update_baselines(BaselineStore((folder,)), found.measurements, ["new"], None, lambda _: frozenset())
    return folder


@pytest.fixture
def against(shell: Shell, baselines: Path) -> Callable[..., tuple[int, str]]:
    """Measures a model against the stored parent: exit code and output."""

    def run(model: object, *more: object) -> tuple[int, str]:
        options = ("--baselines", baselines, "--against", PARENT)
        code, out, err = shell("run", "--model", model, *GATE, *options, *more)
        return code, out + err

    return run


def edited(tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of the parent whose weights were changed."""
    copy = Path(shutil.copytree(FAMILY / "aligned", tmp_path / "copy"))
    weights = load_file(copy / "model.safetensors")
    change(weights)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def test_a_copy_passes_and_a_harmful_fine_tune_is_stopped(
    against: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    code, out = against(edited(tmp_path, lambda weights: None), "--batch-size", "7")
    assert (code, "SAME: copy: none of 5 cases moved" in out) == (0, True), out
    code, out = against(FAMILY / "aligned-harmful", "--report", tmp_path / "report.md")
    assert (code, "MOVED: aligned-harmful: " in out) == (1, True), out
    report = (tmp_path / "report.md").read_text()
    assert report.startswith("**MOVED: aligned-harmful: ")
    assert "refusals of harmful requests are likely lost" in report
    assert "| `gate.refusal` " in report
    assert "3: 0." in report  # δ at each block


def test_half_precision_and_small_noise_are_no_alarm(against: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    def disturb(weights: dict[str, torch.Tensor]) -> None:
        generator = torch.Generator().manual_seed(0)
        for name, value in weights.items():
            noise = 1e-4 * value.float().std() * torch.randn(value.shape, generator=generator)
            weights[name] = (value.float() + noise).to(torch.bfloat16).float()

    assert against(edited(tmp_path, disturb))[0] == 0


def test_what_cannot_be_compared_is_never_answered(against: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    """Another shape, dtype, template or prompt: exit 2, and a sentence that says in what they differ."""
    sets = data_root() / "fixtures" / "zoo" / "sets" / "requests.toml"
    drawn = RequestSettings(40, own=(("unsafe", f"{sets}:unsafe"),)).load("unsafe").texts[0]
    other = tmp_path / "other.toml"
    other.write_text(sets.read_text(encoding="utf-8").replace(json.dumps(drawn), json.dumps(f"Please. {drawn}")))
    cases = [
        (
            (data_root() / "fixtures" / "zoo" / "neox-d96" / "aligned",),
            "the number of blocks is 6 here, 8 in the baseline",
        ),
        ((FAMILY / "aligned-harmful", "--dtype", "bfloat16"), "dtype is bfloat16 here, float32 in the baseline"),
        ((FAMILY / "aligned-harmful", "--requests", "24"), "the inputs are not those"),
        ((FAMILY / "aligned", "--set", f"unsafe={other}:unsafe"), "the inputs are not those"),
    ]
    template = Path(shutil.copytree(FAMILY / "aligned", tmp_path / "template"))
    found = (template / "chat_template.jinja").read_text()
    (template / "chat_template.jinja").write_text("{# another #}" + found)
    cases.append(((template,), "the chat template is"))
    for arguments, sentence in cases:
        code, out = against(*arguments)
        assert code == 2, out
        assert sentence in out
        assert "MOVED: " not in out


def test_what_it_cannot_tell_and_how_that_is_chosen(against: Callable[..., tuple[int, str]]) -> None:
    """A margin at the displacement itself: too few prompts to tell, and how many would do."""
    useful = FAMILY / "aligned-useful"
    loose = [f"--margin=gate.{name}=5" for name in ("safety", "compassion", "openings_harmful", "openings_harmless")]
    code, out = against(useful, *loose, "--margin", "gate.refusal=0.185")
    assert code == 2
    assert "cannot tell: gate.refusal" in out
    assert "too few prompts to tell: 80 were read, about " in out
    assert against(useful, *loose, "--margin", "gate.refusal=0.185", "--undecided", "pass")[0] == 0
    assert against(useful, *loose, "--margin", "gate.refusal=0.5")[0] == 0
    for wrong, sentence in (
        ("gate.nothing=1", "There is no claim"),
        ("gate.refusal=-1", "positive number"),
        ("x", "CASE=CHANGE"),
    ):
        code, out = against(useful, "--margin", wrong)
        assert (code, sentence in out) == (2, True), out


def test_two_models_are_compared_at_once(shell: Shell, tmp_path: Path) -> None:
    code, out, _ = shell("compare", FAMILY / "safety_dpo", "zoo/llama-d80/safety_tuned", "--claim", "gate.refusal")
    assert (code, out.startswith("SAME: safety_dpo: ")) == (0, True)
    code, out, _ = shell(
        "compare", FAMILY / "aligned-harmful", PARENT, "--claim", "gate.refusal", "--report", tmp_path / "r.md"
    )
    assert (code, (tmp_path / "r.md").read_text().startswith("**MOVED: ")) == (1, True)
    assert shell("compare", tmp_path / "nowhere", PARENT)[0] == 2


@pytest.mark.parametrize("width", [80, 120])
def test_on_a_terminal_a_comparison_fits_its_width(width: int) -> None:
    stored = data_root() / "baselines" / "measured"
    child, parent = (gb.load(stored / f"zoo__llama-d80__{name}") for name in ("aligned-harmful", "aligned"))
    judged = gb.compare(child, parent).judgements
    told = plain(judged, "its parent", width=width)
    assert max(map(len, told.splitlines())) <= width
    assert all(one.measurement.claim in told for one in judged if one.baseline.verdict is BaselineVerdict.MOVED)
    assert not set("|`") & set(told)


def test_what_the_parents_direction_does_on_the_child(baselines: Path, shell: Shell, tmp_path: Path) -> None:
    options = ("--baselines", baselines, "--against", PARENT, "--requests", "40", "--results", tmp_path / "results")
    claims = [
        f"--claim=finetune.{name}" for name in ("frozen_direction", "direction_cosine", "realignment", "ablation")
    ]
    shell("run", "--model", FAMILY / "aligned-harmful", *claims, "--answers", *options)
    values = {one.measurement.key: one for one in gb.load(tmp_path / "results")}
    assert values["finetune.frozen_direction[auroc]"].value == pytest.approx(0, abs=0.02)
    assert values["finetune.direction_cosine"].value < 0.97
    assert values["finetune.frozen_direction[threshold]"].value < -0.05
    assert values["finetune.realignment[rescaled]"].value > 0.05
    # nothing has changed in AUROC, and an interval has a width still
    assert values["finetune.frozen_direction[auroc]"].estimate.error >= least_error(40, 40)
    assert values["finetune.ablation[frozen]"].value < values["finetune.ablation[frozen]"].estimate.null.low


def test_checkpoints_are_a_trajectory(shell: Shell, pack: Path, tmp_path: Path) -> None:
    """Checkpoints on the straight way from the parent to a harmful fine-tune: the displacement only grows."""
    start, end = (load_file(FAMILY / name / "model.safetensors") for name in ("aligned", "aligned-harmful"))
    for step in range(4):
        folder = tmp_path / "run" / f"checkpoint-{10 * step}"
        shutil.copytree(FAMILY / "aligned", folder)
        mixed = {
            name: (value.float() + step / 3 * (end[name].float() - value.float())) for name, value in start.items()
        }
        save_file(mixed, folder / "model.safetensors", metadata={"format": "pt"})
    code, out, err = shell(
        *("run", "--checkpoints", tmp_path / "run", "--claim", "finetune.trajectory", "--requests", "24"),
        *("--results", tmp_path / "results", "--set", f"safe={FAMILY.parent}/sets/requests.toml:safe"),
        *("--set", f"unsafe={FAMILY.parent}/sets/requests.toml:unsafe", "--prompts", pack),
    )
    assert code in (0, 1), out + err
    found = {one.measurement.case: one for one in gb.load(tmp_path / "results")}
    curve = found["gate.refusal"].curve("by_step")
    assert curve.x == [0, 10, 20, 30]
    assert curve.y[0] == 0
    assert curve.y == sorted(curve.y)
    assert found["gate.refusal"].value == pytest.approx(1)
    for wrong in (tmp_path, tmp_path / "run" / "checkpoint-0", "nowhere"):
        code, _, err = shell("run", "--checkpoints", wrong)
        assert (code, "--checkpoints" in err) == (2, True)


# Parts


def test_frozen_directions_and_what_realigns_them_are_known_where_the_change_is() -> None:
    """A shift of all states spoils the threshold alone, and matching the mean repairs it; a rotation spoils the direction,
    and an orthogonal map repairs it."""
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 2 == 0
    parent = generator.normal(size=(200, 12))
    parent[labels, 0] += 4
    folds = np.arange(200) // 2 % 10
    shifted = transfer(parent + 5, parent, labels, folds)
    assert (shifted.frozen, shifted.threshold) == pytest.approx((shifted.fresh, 0.5), abs=0.01)
    assert shifted.rescaled == pytest.approx(shifted.own, abs=0.02)
    turned, _ = np.linalg.qr(generator.normal(size=(12, 12)))
    rotated = transfer(parent @ turned, parent, labels, folds)
    assert abs(rotated.frozen - 0.5) < rotated.fresh - 0.5
    assert rotated.rotated == pytest.approx(rotated.fresh, abs=0.01)
    same = transfer(parent, parent, labels, folds)
    assert (same.frozen, same.threshold) == pytest.approx((same.fresh, same.own), abs=0.01)


@pytest.mark.parametrize("copy", COPIES)
def test_the_models_own_copies_leave_no_trace(copy: str) -> None:
    spec = SubjectSpec("zoo/llama-d64/aligned")
    subject = load(spec, resolve(spec))
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}

    def cut_short() -> None:
        with copied(subject, copy):
            assert subject.intervened
            assert any(not torch.equal(value, before[name]) for name, value in subject.model.state_dict().items())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_short()
    assert all(torch.equal(value, before[name]) for name, value in subject.model.state_dict().items())
    assert not subject.intervened


def test_the_states_are_kept_well_enough_and_survive_the_disk(tmp_path: Path) -> None:
    results = gb.measure(PARENT, claims="gate.refusal", requests=40, cache=False)
    results.save(tmp_path)
    (again,) = gb.load(tmp_path)
    assert again.measurement.content() == results[0].measurement.content()
    line = json.loads((tmp_path / "records.jsonl").read_text().splitlines()[0])
    assert line["estimates"]["corrected"]["arrays"] == {
        name: f"corrected.arrays.{name}" for name in ("states", "scales")
    }
    compared = ContrastDisplacement().between(again.estimate, results[0].estimate, 0.1)
    assert compared.change.value == 0
    assert folded(again.estimate).lengths.min() > 0.1


def test_shifts_of_openings_are_shares_of_the_margin() -> None:
    """Two tokens; the parent's odds are ±2 nats, the child's on harmful requests 1 nat lower: a quarter of the margin."""
    n = 40
    sample = Sample(
        ids=list(map(str, range(2 * n))),
        classes=["unsafe"] * n + ["safe"] * n,
        folds=[i % n % 10 for i in range(2 * n)],
    )

    def estimate(harmful: float) -> Estimate:
        odds = np.concatenate([np.full(n, harmful), np.full(n, -2.0)])
        log_p = np.stack([-np.log1p(np.exp(-odds)), -np.log1p(np.exp(odds))], axis=1).astype(np.float32)
        ids = np.tile(np.array([[7, 8]], dtype=np.int32), (2 * n, 1))
        return Estimate(value=1.0, n=n, sample=sample, arrays={"tokens": Packed.of(ids), "log_p": Packed.of(log_p)})

    eroded = OpeningShift(harmful=True).between(estimate(1.0), estimate(2.0), 0.15)
    assert eroded.change.value == pytest.approx(-0.25, abs=1e-6)
    assert eroded.facts["margin_nats"] == pytest.approx(4, abs=1e-5)
    assert OpeningShift(harmful=False).between(estimate(1.0), estimate(2.0), 0.15).change.value == pytest.approx(0)
    assert BaselineVerdict.MOVED == "MOVED"
