"""Controls: what is found on aligned models, and not on untrained twins of them nor between classes that do not differ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import random_model, tiny_model, tiny_tokenizer
from planted import NOT_SHOWN, WANTED, measure, verdict

from geometry_bench.activations.cache import Cache
from geometry_bench.activations.pooling import LAST
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.claims.requests import Labelled
from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.held_out import earliest_within, held_out_values
from geometry_bench.geometry.resampling import prediction_interval
from geometry_bench.geometry.scorers import projection_scorer
from geometry_bench.labs.group import GroupLab
from geometry_bench.labs.model import Lab
from geometry_bench.prompts.pack import load_pack
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.prompts.sets import load_set
from geometry_bench.records.estimates import Null
from geometry_bench.records.judgement import ClaimVerdict
from geometry_bench.records.measurement import Absence, NotApplicableError
from geometry_bench.resources import data_root
from geometry_bench.subjects.families import declared_member
from geometry_bench.subjects.load import load
from geometry_bench.subjects.spec import SubjectSpec, resolve
from geometry_bench.subjects.subject import Subject
from geometry_bench.subjects.twin import untrained_twin

ALIGNED = ("zoo/llama-d80/aligned", "zoo/neox-d96/aligned")
ANOTHER = 9
"""The seed of a twin that no control draws itself."""


def lab_of_member(name: str, **more: Any) -> Lab:
    """A zoo member with the prompts of its family; ``more`` goes to the request settings."""
    spec = declared_member(name)
    assert spec is not None
    assert spec.prompts is not None
    settings = replace(RequestSettings(own=spec.prompts.sets), **more)
    return Lab(spec, resolve(spec), load_pack(spec.prompts.pack), NOT_SHOWN, requests=settings, wanted=WANTED)


@pytest.fixture(scope="module", params=ALIGNED)
def aligned(request: pytest.FixtureRequest) -> Iterator[Lab]:
    lab = lab_of_member(request.param)
    yield lab
    lab.close()


# Aligned models


def test_the_direction_is_found_where_it_was_learned(aligned: Lab) -> None:
    found = measure("gate.refusal", aligned)
    assert found.value is not None
    assert found.value > 0.95
    assert verdict("gate.refusal", found) is ClaimVerdict.HOLDS
    for control in ("untrained_refusal", "untrained_early"):
        assert verdict(f"control.{control}", measure(f"control.{control}", aligned)) is ClaimVerdict.HOLDS


def test_it_has_an_onset_on_the_last_token_of_the_chat(aligned: Lab) -> None:
    safe, unsafe = (aligned.requests(name, rendering="chat", poolings=(LAST,)) for name in ("safe", "unsafe"))
    both = Labelled.of(safe.requests, unsafe.requests)
    states = np.concatenate([safe.states[LAST], unsafe.states[LAST]])
    curve = np.array(
        [
            held_out_values(projection_scorer(states[:, block], both.labels), both.labels, both.topics, splits=4).mean()
            for block in range(aligned.layers)
        ]
    )
    onset = earliest_within(curve, 0.05)
    assert onset >= 2
    assert curve[onset] > 0.95
    assert curve[:2].max() < 0.75


def test_nothing_is_found_in_an_untrained_model_that_its_own_twins_do_not_show(aligned: Lab) -> None:
    with aligned.twin(ANOTHER) as twin:
        assert measure("gate.refusal", twin).value < 0.75  # type: ignore[operator]
        for control in ("untrained_refusal", "untrained_early"):
            found = measure(f"control.{control}", twin)
            assert verdict(f"control.{control}", found) is not ClaimVerdict.HOLDS
            assert abs(found.value or 1) < 0.1


def test_harmless_requests_dealt_into_two_classes_are_not_told_apart(aligned: Lab) -> None:
    for control in ("sham_refusal", "sham_early"):
        found = measure(f"control.{control}", aligned)
        assert found.value == pytest.approx(0.5, abs=0.04)
        assert verdict(f"control.{control}", found) is ClaimVerdict.HOLDS


# Twins


def test_a_twin_has_shape_tokenizer_and_settings_of_the_model_and_no_weight_of_it(tmp_path: Path) -> None:
    spec = SubjectSpec(str(tiny_model("gpt_neox", tmp_path, seed=3)), dtype="bfloat16")
    subject = load(spec)
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    state, default = torch.get_rng_state(), torch.get_default_dtype()
    twin, same, other = (untrained_twin(subject, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == default
    assert all(torch.equal(value, before[name]) for name, value in subject.model.state_dict().items())
    assert (twin.dtype, twin.attention, twin.device) == (subject.dtype, subject.attention, subject.device)
    assert (twin.n_layers, twin.width, twin.tokenizer_hash) == (4, 32, subject.tokenizer_hash)
    weights = [dict(one.model.named_parameters()) for one in (twin, same, other, subject)]
    drawn = [name for name, value in weights[0].items() if value.dim() == 2]
    assert set(weights[0]) == set(weights[3])
    for name in drawn:
        assert torch.equal(weights[0][name], weights[1][name])
        assert not torch.equal(weights[0][name], weights[2][name])
        assert not torch.equal(weights[0][name], weights[3][name])
    assert twin.identity.revision == same.identity.revision
    assert len({one.identity.revision for one in (twin, other, subject)}) == 3


@pytest.mark.parametrize("kind", ["gemma3_multimodal", "mixtral"])
def test_a_wrapped_model_of_any_class_has_one(kind: str) -> None:
    subject = Subject.wrap(random_model(kind), tiny_tokenizer(chat_template="native"))
    twin = untrained_twin(subject)
    assert type(twin.model) is type(subject.model)
    assert len(twin.blocks) == len(subject.blocks)


def test_a_twin_is_captured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SubjectSpec(str(tiny_model("llama", tmp_path)))

    def states(seed: int = 0) -> np.ndarray:
        lab = Lab(spec, resolve(spec), load_pack(), NOT_SHOWN, Cache(tmp_path / "cache"), RequestSettings(5))
        with lab.twin(seed) as twin:
            found: np.ndarray = twin.requests("safe", rendering="chat", poolings=(LAST,)).states[LAST]
        lab.close()
        return found

    def no_pass(*_: Any) -> None:
        raise AssertionError("a forward pass")

    first = states()
    monkeypatch.setattr("geometry_bench.activations.capture._passes", no_pass)
    np.testing.assert_array_equal(states(), first)
    with pytest.raises(AssertionError, match="a forward pass"):
        states(seed=1)


def test_where_none_can_be_built_the_control_says_so(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab(SubjectSpec(str(tiny)), resolve(SubjectSpec(str(tiny))), load_pack(), NOT_SHOWN)
    kind = type(lab.subject.model)

    def needs_more(self: Any, config: Any) -> None:
        raise TypeError("weights are needed")

    monkeypatch.setattr(kind, "__init__", needs_more)
    with pytest.raises(NotApplicableError, match=r"no untrained twin of tiny .* weights are needed") as absent:
        measure("control.untrained_refusal", lab)
    assert absent.value.missing.reason is Absence.NO_TWIN


def test_a_model_spread_over_devices_has_none(tiny: Path) -> None:
    subject = load(SubjectSpec(str(tiny)))
    subject.model.hf_device_map = {"a": 0, "b": 1}
    with pytest.raises(GeometryBenchError, match="spread over devices"):
        untrained_twin(subject)


# A null of few draws


def test_one_more_of_a_few_draws_exceeds_the_end_of_their_null_in_one_case_of_twenty() -> None:
    draws = np.random.default_rng(0).standard_normal((4000, 5))
    above = np.mean([row[4] > prediction_interval(row[:4])[1] for row in draws])
    assert above == pytest.approx(0.05, abs=0.012)
    below = np.mean([row[3] < prediction_interval(row[:3])[0] for row in draws])
    assert below == pytest.approx(0.05, abs=0.012)


def test_two_nulls_side_by_side_must_both_be_exceeded() -> None:
    wide, narrow = (Null.of_few(name, np.array(draws), 1.0) for name, draws in (("a", [-2, 0, 2]), ("b", [0.4, 0.6])))
    assert wide is not None
    assert narrow is not None
    both = narrow.beside(wide)
    assert (both.low, both.high) == (min(wide.low, narrow.low), max(wide.high, narrow.high))
    assert both.percentile == pytest.approx(200 / 3)
    assert narrow.beside(None) == narrow


# A group


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> GroupLab:
    """Two aligned members and an untrained one, mapped by instructions that both classes are among, at the full depth."""
    sets = data_root() / "fixtures" / "zoo" / "sets" / "requests.toml"
    mapped = [
        text for name in ("harmful-a", "harmful-b", "instructions") for text in load_set(f"{sets}:{name}").texts[:160]
    ]
    file = tmp_path_factory.mktemp("sets") / "both.txt"
    file.write_text("\n".join(mapped), encoding="utf-8")
    sources = (("alignment", str(file)),)
    labs = {name.split("/")[1]: lab_of_member(name, sources=sources) for name in ALIGNED}

    @contextmanager
    def no_more(seed: int = 0) -> Iterator[Lab]:
        raise NotApplicableError(Absence.NO_TWIN, "it is a twin itself")
        yield

    twin = untrained_twin(labs["llama-d80"].subject, ANOTHER)
    settings = labs["llama-d80"].request_settings
    untrained = Lab(twin.spec, twin.identity, load_pack(), NOT_SHOWN, requests=settings, wanted=WANTED, subject=twin)
    untrained.twin = no_more  # type: ignore[method-assign]
    labs["untrained"] = untrained
    return GroupLab(tuple(labs), "llama-d80", labs.__getitem__, CLAIMS["universal.auroc"].requires, settings, 1.0)


def test_members_share_an_axis_and_an_untrained_one_does_not_though_it_exceeds_swapped_labels(group: GroupLab) -> None:
    assert len(group.twins) == 4
    assert any("it is a twin itself" in note for note in group.inputs(group.requires).notes)
    trained, untrained = (measure("universal.reference_cosine", group, name) for name in ("neox-d96", "untrained"))
    assert trained.value is not None
    assert untrained.value is not None
    assert trained.value > 0.85
    assert verdict("universal.reference_cosine", trained) is ClaimVerdict.HOLDS
    assert untrained.value > untrained.details["permuted_high"]  # type: ignore[operator]
    for claim in ("universal.reference_cosine", "universal.shared_axis", "universal.auroc"):
        assert verdict(claim, measure(claim, group, "untrained")) is not ClaimVerdict.HOLDS
