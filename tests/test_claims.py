"""The claims as an instrument: planted truth, the source's own steps, random weights, an independent computation."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from models import tiny_model
from planted import lab_of, measure, verdict

from geometry_bench.claims.model import Case, Claim
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.claims.safety_compassion.layers import analysis_layers, capping_layers
from geometry_bench.labs.model import CaptureSettings, Lab
from geometry_bench.records.judgement import ClaimVerdict
from geometry_bench.records.measurement import NotApplicableError

TRADITIONS = ("chenrezig", "tara", "agape", "rahma")
LAYERS, WIDTH, MESSAGES = 6, 64, 8


class PlantedLab:
    """A lab whose states are axes of known geometry plus message noise common to all conditions."""

    def __init__(self, axes: dict[str, np.ndarray], noise: float = 0.0, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.layers = LAYERS
        messages = [SimpleNamespace(id=str(number)) for number in range(MESSAGES)]
        self.pack = SimpleNamespace(openings={}, messages=dict.fromkeys(("suffering", "benign"), messages))
        chat = SimpleNamespace(name="chat_template", system_policy="native", injected_text=None)
        self.subject = SimpleNamespace(chat=chat)
        content = generator.normal(size=(MESSAGES, LAYERS, WIDTH))
        zero = {"generic": np.zeros(WIDTH), "empty": np.zeros(WIDTH) + np.eye(WIDTH)[5]}
        self._states = {
            name: content + axis + noise * generator.normal(size=content.shape) for name, axis in (zero | axes).items()
        }

    def states(self, messages: str, rendering: str) -> dict[str, np.ndarray]:
        return self._states

    def conditions(self, messages: str) -> dict[str, str]:
        return dict.fromkeys(self._states, "text")

    def encoded(self, messages: str, rendering: str) -> dict[str, list[Any]]:
        return {}

    def same_prompt(self, a: str, b: str, messages: str) -> bool:
        return False


def unit(generator: np.random.Generator) -> np.ndarray:
    vector = generator.normal(size=WIDTH)
    return vector / np.linalg.norm(vector)


def with_cosine(direction: np.ndarray, cosine: float, generator: np.random.Generator) -> np.ndarray:
    """A unit vector at a given cosine to a unit direction."""
    other = unit(generator)
    other -= (other @ direction) * direction
    return cosine * direction + np.sqrt(1 - cosine**2) * other / np.linalg.norm(other)


@pytest.fixture(scope="module")
def planted() -> PlantedLab:
    generator = np.random.default_rng(1)
    shared = unit(generator)
    axes = {name: 3 * with_cosine(shared, 0.9, generator) for name in TRADITIONS}
    axes["rahma"] = 2 * with_cosine(axes["agape"] / 3, 0.97, generator)
    axes["secular"] = with_cosine(shared, 0.1, generator)
    axes["safety"] = with_cosine(axes["chenrezig"] / 3, 0.4, generator)
    axes["safety_strict"] = 5 * with_cosine(axes["safety"], 0.8, generator)
    axes["empty"] = with_cosine(axes["safety"], -0.3, generator)
    axes |= {f"{kind}:{i}": unit(generator) for kind in ("control", "safety_control") for i in range(40)}
    axes |= {f"topic:{i}": with_cosine(axes["safety"], 0.95, generator) for i in range(24)}
    return PlantedLab(axes, noise=1e-4)


@pytest.mark.parametrize(
    ("claim", "case", "truth"),
    [
        ("compassion.cross_tradition_cosine", "agape-rahma", 0.97),
        ("safety.compassion_alignment", "", 0.4),
        ("safety.strict_agreement", "", 0.8),
        ("safety.baseline_sign", "", -0.3),
    ],
)
def test_planted_cosines_are_met(planted: PlantedLab, claim: str, case: str, truth: float) -> None:
    estimate = measure(claim, planted, case)
    assert estimate.value == pytest.approx(truth, abs=1e-3)
    assert estimate.profile is not None
    assert estimate.profile == pytest.approx([truth] * LAYERS, abs=1e-3)
    assert estimate.block == LAYERS - 1
    assert estimate.details["split_reference"] == pytest.approx(truth, abs=1e-3)


def test_planted_closest_pair_and_secular_gap(planted: PlantedLab) -> None:
    closest = measure("compassion.tightest_pair", planted)
    assert closest.label == "agape-rahma"
    assert closest.value is not None
    assert closest.value > 0
    secular = measure("compassion.secular_divergence", planted)
    states = planted.states("suffering", "corrected")
    axes = {k: (states[k] - states["generic"]).mean(axis=0)[-1] for k in (*TRADITIONS, "secular")}
    unit_axes = {k: v / np.linalg.norm(v) for k, v in axes.items()}
    within = np.mean([unit_axes[a] @ unit_axes[b] for i, a in enumerate(TRADITIONS) for b in TRADITIONS[i + 1 :]])
    apart = np.mean([unit_axes[a] @ unit_axes["secular"] for a in TRADITIONS])
    # The means share the reference's noise, 1e-4 a dimension: its square over the messages is 64e-8 / 8.
    assert secular.value == pytest.approx(within - apart, abs=1e-7)


def test_unified_axis_of_orthonormal_axes() -> None:
    """The full mean gives 1/2 to each of four orthonormal axes by itself; the mean of the others gives 0."""
    axes = dict(zip(TRADITIONS, np.eye(WIDTH)[:4], strict=True))
    axes |= {f"control:{i}": np.eye(WIDTH)[8 + i] for i in range(40)}
    lab = PlantedLab(axes)
    estimates = CLAIMS["compassion.unified_axis"].measure(lab, Case("tara", ("tara",)))
    assert estimates["published"].value == pytest.approx(0.5, abs=0.02)  # bfloat16
    assert estimates["corrected"].value == pytest.approx(0.0, abs=1e-9)
    assert estimates["corrected"].details["full_mean"] == pytest.approx(0.5, abs=1e-9)


def test_planted_dimensionality(planted: PlantedLab) -> None:
    one = measure("safety.dimensionality", planted)
    assert one.value == pytest.approx(0.95**2, abs=0.03)
    assert one.null is not None
    assert one.value is not None
    assert one.value > one.null.high
    generator = np.random.default_rng(2)
    axes = {f"topic:{i}": unit(generator) for i in range(24)} | {f"control:{i}": unit(generator) for i in range(40)}
    scattered = measure("safety.dimensionality", PlantedLab(axes))
    assert scattered.null is not None
    assert scattered.value is not None
    assert scattered.null.low * 0.9 < scattered.value < scattered.null.high * 1.1


def test_prompt_sensitivity_sees_a_sign_that_hangs_on_one_message() -> None:
    lab = PlantedLab({name: np.zeros(WIDTH) for name in (*TRADITIONS, "secular", "safety", "safety_strict")})
    first, second = np.eye(WIDTH)[0], np.eye(WIDTH)[1]
    states = lab.states("suffering", "corrected")
    states["chenrezig"] = states["generic"] + first
    states["tara"] = states["generic"] - 0.1 * first + second
    states["tara"][0] += 2 * first  # one message alone makes the cosine positive
    estimate = measure("safety.prompt_sensitivity", lab, "chenrezig-tara")
    assert estimate.details["figure"] is not None
    assert estimate.details["figure"] > 0
    assert estimate.value is not None
    assert estimate.value < 0
    # The value itself cannot be told from zero; of one that can, the same recomputations would be a failure.
    assert verdict("safety.prompt_sensitivity", estimate) is ClaimVerdict.INCONCLUSIVE
    told = estimate.model_copy(update={"details": {**estimate.details, "figure_low": 0.1, "figure_high": 0.9}})
    assert verdict("safety.prompt_sensitivity", told) is ClaimVerdict.FAILS


def test_zero_axis_is_undefined_not_zero() -> None:
    lab = PlantedLab(
        {name: np.zeros(WIDTH) for name in TRADITIONS} | {f"control:{i}": np.eye(WIDTH)[i] for i in range(40)}
    )
    estimate = measure("compassion.cross_tradition_cosine", lab, "agape-rahma")
    assert estimate.value is None
    assert verdict("compassion.cross_tradition_cosine", estimate) is ClaimVerdict.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("layers", "start", "capping"),
    [(28, 19, (19, 24)), (32, 22, (22, 28)), (40, 28, (28, 36)), (42, 29, (29, 37)), (48, 33, (33, 42))],
)
def test_layers_of_the_source(layers: int, start: int, capping: tuple[int, int]) -> None:
    assert analysis_layers(layers) == range(start, layers)
    assert (capping_layers(layers)[0], capping_layers(layers)[-1]) == capping


# Real models


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return lab_of(tiny_model("llama", tmp_path_factory.mktemp("models"), max_position_embeddings=1024))


PAIR = Case("chenrezig-tara", ("chenrezig", "tara"))
CROSS: Claim = CLAIMS["compassion.cross_tradition_cosine"]


def hidden_states(lab: Lab, ids: tuple[int, ...]) -> np.ndarray:
    """Block outputs at the last token, the usual way: one prompt, the causal model, all hidden states.

    The last of those has been normed, so the last block's output is read where the norm takes it in.
    """
    model: Any = lab.subject.model
    captured: list[torch.Tensor] = []
    handle = model.model.norm.register_forward_pre_hook(lambda module, args: captured.append(args[0]))
    try:
        with torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    finally:
        handle.remove()
    blocks = [*states[1:-1], captured[0]]
    return np.stack([block[0, -1].float().numpy() for block in blocks]).astype(np.float64)


def test_value_equals_an_independent_computation(lab: Lab) -> None:
    """``output_hidden_states`` and NumPy, one prompt at a time, no message with itself, give the same cosines."""
    pack = lab.pack
    states = {}
    for key in ("generic", "chenrezig", "tara"):
        encoded = [lab.subject.chat.encode(pack.systems[key], m.text).ids for m in pack.messages["suffering"]]
        states[key] = np.array([hidden_states(lab, ids) for ids in encoded])
    a, b = states["chenrezig"] - states["generic"], states["tara"] - states["generic"]

    def product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        pairs = [(x[i] * y[j]).sum(axis=1) for i in range(len(x)) for j in range(len(y)) if i != j]
        mean: np.ndarray = np.mean(pairs, axis=0)
        return mean

    expected = product(a, b) / np.sqrt(product(a, a) * product(b, b))
    profile = CROSS.measure(lab, PAIR)["corrected"].profile
    np.testing.assert_allclose(np.array(profile, dtype=float), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("varied", [{"batch_size": 1}, {"batch_size": 64}, {"batch_size": 8, "padding": "left"}])
def test_value_does_not_depend_on_batching(lab: Lab, varied: dict[str, Any]) -> None:
    few = replace(lab.pack, controls=dict(list(lab.pack.controls.items())[:6]), safety_controls={}, safety_topics={})
    ours, theirs = (
        CROSS.measure(Lab(lab.spec, lab.identity, few, CaptureSettings(progress=False, **more)), PAIR)["corrected"]
        for more in (varied, {})
    )
    assert ours.units is not None
    assert theirs.units is not None
    assert [ours.value, *ours.units.values] == pytest.approx([theirs.value, *theirs.units.values], rel=2e-5)


def test_published_variant_follows_the_source_step_by_step(lab: Lab) -> None:
    """Rendered text tokenised again with special tokens (BOS doubled), one bfloat16 tensor a prompt, mean, difference and
    cosine each rounded to bfloat16, in that order."""
    pack, chat, tokenizer = lab.pack, lab.subject.chat, lab.subject.tokenizer
    for messages, a, b, claim, case in (
        ("suffering", "chenrezig", "tara", CROSS, PAIR),
        ("benign", "safety", "empty", CLAIMS["safety.baseline_sign"], Case()),
    ):
        means = {}
        for key in ("generic", a, b):
            rows = []
            for message in pack.messages[messages]:
                ids = tuple(tokenizer(chat.text(pack.systems[key], message.text)).input_ids)
                assert ids[:2] == (tokenizer.bos_token_id,) * 2  # step 1: the doubled BOS
                assert chat.encode(pack.systems[key], message.text, doubled_bos=True).ids == ids
                assert chat.encode(pack.systems[key], message.text).ids == ids[1:]  # corrected: one
                rows.append(torch.from_numpy(hidden_states(lab, ids)).bfloat16())  # step 2: last token, bfloat16
            means[key] = torch.stack(rows).mean(dim=0)  # step 3: the mean stays bfloat16
            assert means[key].dtype == torch.bfloat16
        axis_a, axis_b = means["generic"] - means[a], means["generic"] - means[b]  # step 4: difference of means
        if messages == "suffering":
            axis_a, axis_b = -axis_a, -axis_b  # compassion axes run from generic to the framework
        cosines = torch.nn.functional.cosine_similarity(axis_a, axis_b, dim=-1)  # step 5: cosine in bfloat16
        estimate = claim.measure(lab, case)["published"]
        np.testing.assert_allclose(np.array(estimate.profile, dtype=float), cosines.float().numpy(), atol=0.008)
        assert estimate.arithmetic == "bfloat16"
        assert all(float(torch.tensor(x).bfloat16()) == x for x in estimate.profile or ())  # a bfloat16 number each


@pytest.mark.parametrize("seed", [0, 1])
def test_random_weights_pass_the_published_criterion_but_not_the_null(tmp_path: Any, seed: int) -> None:
    """Axes that share a reference have positive cosines whatever the weights: the published criterion passes on noise."""
    lab = lab_of(tiny_model("llama", tmp_path, seed=seed, max_position_embeddings=1024))
    published, corrected = [], []
    for case in CROSS.cases:
        estimates = CROSS.measure(lab, case)
        assert CROSS.published_criterion is not None
        published.append(CROSS.published_criterion.judge(estimates["published"]).verdict)
        corrected.append(estimates["corrected"])
    assert published.count(ClaimVerdict.HOLDS) >= 5
    verdicts = [CROSS.criterion.judge(estimate).verdict for estimate in corrected]
    assert set(verdicts) != {ClaimVerdict.HOLDS}
    values = [e.value for e in corrected if e.value is not None]
    nulls = [e.null for e in corrected if e.null is not None]
    assert len(values) == len(nulls) == 6
    assert nulls[0].mean > 0.2  # a cosine of zero is not what unrelated prompts give
    assert nulls[0].low < float(np.median(values)) < nulls[0].high


def test_empty_that_is_generic_is_not_applicable(tmp_path: Any) -> None:
    lab = lab_of(tiny_model("llama", tmp_path, chat_template="default_system", max_position_embeddings=1024))
    lab.pack = replace(lab.pack, systems={**lab.pack.systems, "generic": "You are Pebble, a kind helper."})
    with pytest.raises(NotApplicableError, match="renders the generic prompt itself"):
        CLAIMS["safety.baseline_sign"].measure(lab, Case())
