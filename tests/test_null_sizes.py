"""How often a null is exceeded where there is nothing to find: seeded simulations of the size of tests and nulls."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from planted import measure, verdict
from scipy import stats

from geometry_bench.geometry.clusters import permuted_labels
from geometry_bench.geometry.directions import cosine
from geometry_bench.geometry.magnitude import peak_permutation_p, resampled_profiles
from geometry_bench.records.estimates import Null
from geometry_bench.records.judgement import ClaimVerdict

LEVEL = 0.05


def rejects_too_often(count: int, trials: int, level: float = LEVEL) -> bool:
    """Whether so many rejections among independent trials are more than a test of that level makes (1 in 1000)."""
    return bool(stats.binomtest(count, trials, level, alternative="greater").pvalue < 1e-3)


def test_the_distance_of_class_means_at_its_peak_keeps_its_level() -> None:
    """Partners with noise of their own at every block, no class: where only the block of the data's own peak was drawn,
    p was at most 0.05 in a fifth of the data sets or more."""
    generator, pairs, layers, width, trials = np.random.default_rng(0), 20, 12, 8, 300
    labels, partners = np.repeat([False, True], pairs), np.tile(np.arange(pairs), 2)
    drawn = permuted_labels(labels, partners, draws=99, seed=0)
    found, at_own_peak = [], []
    for _ in range(trials):
        states = generator.normal(size=(2 * pairs, layers, width)) + 3.0
        distance = resampled_profiles(states, ~np.array([labels]), np.array([labels])).relative_distance[0]
        permuted = resampled_profiles(states, 1.0 - drawn, drawn.astype(np.float64)).relative_distance
        found.append(peak_permutation_p(distance, permuted))
        top = distance.argmax()
        at_own_peak.append((1 + (permuted[:, top] >= distance[top]).sum()) / 100)
    assert not rejects_too_often(int((np.array(found) <= LEVEL).sum()), trials)
    assert np.mean(found) > 0.4  # of its level, and not merely never rejecting
    assert np.mean(np.array(at_own_peak) <= LEVEL) > 0.2


def test_the_distance_at_its_peak_is_found_where_there_is_one() -> None:
    profile, permuted = np.array([0.1, 0.9, 0.2]), np.random.default_rng(1).random((199, 3)) * 0.8
    assert peak_permutation_p(profile, permuted) == 1 / 200
    assert peak_permutation_p(permuted[0], permuted[:1]) == 1.0


def test_a_further_draw_exceeds_the_null_as_often_as_it_says() -> None:
    draws = np.random.default_rng(2).normal(size=(4000, 33))
    nulls = [Null.of("", row[1:], row[0]) for row in draws]
    above = np.mean([null is not None and row[0] > null.high for row, null in zip(draws, nulls, strict=True)])
    assert above == pytest.approx(LEVEL, abs=3 * np.sqrt(LEVEL * 0.95 / 4000))


def test_several_cases_of_one_claim_have_a_joint_level() -> None:
    """Six pairs of four axes: one at least lies above its own 95 % in a quarter of draws, above the joint one in 5 %."""
    generator, trials = np.random.default_rng(4), 1500
    rows, columns = np.triu_indices(4, k=1)

    def pairs(draws: int) -> np.ndarray:
        axes = generator.normal(size=(draws, 4, 24))
        cosines: np.ndarray = cosine(axes[:, rows], axes[:, columns])
        return cosines

    null, values = pairs(2000), pairs(trials)
    found = Null.of("", null.reshape(-1), 0.0, null)
    assert found is not None
    assert found.any_percentile is not None
    assert found.all_percentile is not None
    percentiles = 100 * np.searchsorted(np.sort(null, axis=None), values) / null.size
    assert np.mean((percentiles > 95).any(axis=1)) == pytest.approx(1 - 0.95**6, abs=0.04)
    spread = 3 * np.sqrt(LEVEL * (1 - LEVEL) * (1 / trials + 1 / 2000))  # of the rate, and of the quantile
    assert np.mean((percentiles > found.any_percentile).any(axis=1)) == pytest.approx(LEVEL, abs=spread)
    assert np.mean((percentiles > found.all_percentile).all(axis=1)) == pytest.approx(LEVEL, abs=spread)
    assert found.cases == 6
    assert found.any_percentile > 98
    assert found.all_percentile < 60


# Controls as long as what they stand against

GENERIC, FRAMEWORKS, SAFETY = 11.0, (63.0, 8.0), (97.0, 4.0)
"""Words of the reference, and mean and standard deviation of those of controls and of safety prompts and theirs."""


class WordsLab:
    """State = message + words × a direction + the wording's own + noise: no prompt means anything."""

    def __init__(self, seed: int, safety_controls: tuple[float, float]) -> None:
        generator, messages, width = np.random.default_rng(seed), 8, 64
        self.layers = 1
        texts = [SimpleNamespace(id=str(number)) for number in range(messages)]
        self.pack = SimpleNamespace(openings={}, messages={"benign": texts})
        content = generator.normal(size=(messages, 1, width))
        drawn = {"safety": SAFETY, "safety_strict": SAFETY}
        drawn |= {f"control:{place}": FRAMEWORKS for place in range(42)}
        drawn |= {f"safety_control:{place}": safety_controls for place in range(32)}
        shift = np.eye(width)[0] / 20

        def states(words: float) -> np.ndarray:
            own = 0.35 * generator.normal(size=width)
            noise: np.ndarray = 0.05 * generator.normal(size=content.shape)
            return content + words * shift + own + noise

        self._states = {"generic": states(GENERIC)}
        self._states |= {name: states(generator.normal(*words)) for name, words in drawn.items()}

    def states(self, messages: str, rendering: str) -> dict[str, Any]:
        return self._states


def test_an_unrelated_prompt_of_the_safety_prompts_length_is_no_second_safety_prompt() -> None:
    """Two unrelated prompts of that length: held against shorter ones, they "agree" several times too often."""
    trials, claim = 150, "safety.strict_agreement"

    def holds(controls: tuple[float, float]) -> int:
        labs = (WordsLab(seed, controls) for seed in range(trials))
        return sum(verdict(claim, measure(claim, lab)) is ClaimVerdict.HOLDS for lab in labs)

    assert not rejects_too_often(holds(SAFETY), trials)
    assert holds(FRAMEWORKS) > 2 * LEVEL * trials
