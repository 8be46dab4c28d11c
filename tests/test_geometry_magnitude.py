"""Sizes and spreads of classes: planted peaks and ratios, streamed and resampled alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.directions import cosine
from geometry_bench.geometry.magnitude import (
    Profiles,
    bootstrap_profiles,
    jackknife_profiles,
    peak,
    percentile_interval,
    ratio_interval,
    resampled_profiles,
    variance_permutation,
)
from geometry_bench.geometry.moments import Accumulator

LAYERS, WIDTH, PROMPTS = 6, 24, 200
LABELS = np.repeat([False, True], PROMPTS)


def planted(ratio: float = 2.0, at: int = 4, gap: float = 3.0, seed: int = 0) -> np.ndarray:
    """Safe then harmful prompts around a common mean; the classes lie ``gap`` apart at layer ``at``, half that elsewhere."""
    generator = np.random.default_rng(seed)
    states = generator.standard_normal((2 * PROMPTS, LAYERS, WIDTH))
    states[~LABELS] *= np.sqrt(ratio)
    direction = generator.standard_normal((LAYERS, WIDTH))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    sizes = np.full(LAYERS, gap / 2)
    sizes[at] = gap
    states[~LABELS] += sizes[:, None] * direction
    return states + 5.0


def profiles(states: np.ndarray, labels: np.ndarray = LABELS, neutral: np.ndarray | None = None) -> Profiles:
    """The profiles (layers,) of the states as they are."""
    found = resampled_profiles(states, ~labels[None], labels[None], neutral)
    rows = {name: getattr(found, name) for name in Profiles.__dataclass_fields__}
    return Profiles(**{name: None if row is None else row[0] for name, row in rows.items()})


def test_planted_variance_ratio_and_peak_are_found_at_the_planted_layer() -> None:
    states = planted(ratio=2.3, at=4)
    found = profiles(states)
    assert found.variance_ratio == pytest.approx(np.full(LAYERS, 2.3), rel=0.06)
    assert found.harmful_variance == pytest.approx(np.full(LAYERS, 1.0), rel=0.05)
    # The noise of the two means adds (2.3 + 1)/200 a dimension to the squared distance; 0.12 is its standard error here.
    fresh = [profiles(x).distance[4] for x in (planted(2.3, seed=s) for s in range(40))]
    assert np.mean(np.square(fresh)) == pytest.approx(9 + WIDTH * 3.3 / PROMPTS, abs=3 * 0.12)
    where = peak(found.distance, bootstrap_profiles(states, LABELS, draws=200).distance)
    assert (where.layer, where.depth) == (4, 4 / LAYERS)
    assert where.shares[4] > 0.99
    assert where.interval.low == where.interval.high == 4 / LAYERS


def test_a_profile_without_a_peak_has_its_peak_anywhere() -> None:
    states = planted(gap=0.0)
    drawn = bootstrap_profiles(states, LABELS, draws=200).distance
    where = peak(profiles(states).distance, drawn)
    assert where.shares.max() < 0.9
    assert where.interval.high > where.interval.low


def test_every_profile_is_the_one_written_out() -> None:
    states = planted().astype(np.float32)
    safe, harmful = (states[value == LABELS].astype(float) for value in (False, True))
    neutral = np.random.default_rng(5).standard_normal((LAYERS, WIDTH))
    found = profiles(states, LABELS, neutral)
    assert found.distance == pytest.approx(np.linalg.norm(safe.mean(0) - harmful.mean(0), axis=1))
    assert found.cosine == pytest.approx(cosine(safe.mean(0), harmful.mean(0)))
    assert found.centred_cosine == pytest.approx(cosine(safe.mean(0) - neutral, harmful.mean(0) - neutral))
    assert found.safe_variance == pytest.approx(safe.var(axis=0, ddof=1).mean(axis=1))
    norms = [np.linalg.norm(x, axis=2).mean(axis=0) for x in (safe, harmful)]
    assert found.norm_gap == pytest.approx(norms[0] - norms[1])
    assert found.relative_distance == pytest.approx(found.distance / np.mean(norms, axis=0))
    assert found.harmful_variance == pytest.approx(harmful.var(axis=0, ddof=1).mean(axis=1))


def test_a_prompt_of_weight_two_counts_twice_and_of_weight_zero_not_at_all() -> None:
    states = planted()[:, :2]
    counts = np.random.default_rng(2).integers(0, 3, 2 * PROMPTS)
    weighted = resampled_profiles(states, (counts * ~LABELS)[None], (counts * LABELS)[None])
    repeated, labels = np.repeat(states, counts, axis=0), np.repeat(LABELS, counts)
    plain = profiles(repeated, labels)
    for name in ("distance", "cosine", "safe_variance", "harmful_variance", "harmful_norm"):
        assert getattr(weighted, name)[0] == pytest.approx(getattr(plain, name)), name


def test_jackknife_and_bootstrap_of_the_ratio_agree_and_hold_the_truth() -> None:
    states = planted(ratio=2.0)[:, :1]
    value = float(profiles(states).variance_ratio[0])
    jackknife = ratio_interval(value, jackknife_profiles(states, LABELS).variance_ratio[:, 0])
    bootstrap = percentile_interval(bootstrap_profiles(states, LABELS, draws=500).variance_ratio[:, 0])
    assert jackknife.low < 2.0 < jackknife.high
    assert bootstrap.low < 2.0 < bootstrap.high
    # Var log of a mean of WIDTH sample variances: 2/(n·WIDTH) a class.
    assert jackknife.error == pytest.approx(value * np.sqrt(2 * 2 / (PROMPTS * WIDTH)), rel=0.2)
    assert bootstrap.error == pytest.approx(jackknife.error, rel=0.2)


def test_permutation_of_equal_variances_is_uniform_and_of_unequal_ones_small() -> None:
    states = planted(ratio=1.3)[:, 0]
    unequal = variance_permutation(states, LABELS, draws=199)
    assert unequal.p_greater == unequal.p_two_sided == 1 / 200
    reversed_ = variance_permutation(states, ~LABELS, draws=199)
    assert (reversed_.p_greater, reversed_.p_two_sided) == (1.0, 1 / 200)
    # Means far apart at equal variance: no distance of the means may count as spread.
    p = [variance_permutation(planted(1.0, seed=s)[:, 4], LABELS, draws=99).p_greater for s in range(60)]
    assert np.mean(p) == pytest.approx(0.5, abs=0.13)
    assert np.mean(np.array(p) <= 0.1) < 0.25


@settings(max_examples=25)
@given(st.lists(st.integers(1, 150), min_size=1, max_size=5))
def test_moments_do_not_depend_on_how_prompts_arrive(sizes: list[int]) -> None:
    states = np.random.default_rng(sum(sizes)).standard_normal((sum(sizes), 2, 3)).astype(np.float32)
    sums = Accumulator(2, 3)
    for part in np.split(states, np.cumsum(sizes)[:-1]):
        sums.add(part)
    found, wide = sums.moments(), states.astype(float)
    assert found.count == len(states)
    assert found.mean == pytest.approx(wide.mean(axis=0), abs=1e-12)
    for layer in range(2):
        centred = wide[:, layer] - wide[:, layer].mean(axis=0)
        assert found.cross[layer] == pytest.approx(centred.T @ centred, abs=1e-10)


def test_a_large_common_mean_does_not_eat_the_variance() -> None:
    states = np.random.default_rng(0).standard_normal((500, 1, 4)) + 1e8
    streamed = Accumulator(1, 4)
    for part in np.array_split(states, 7):
        streamed.add(part)
    exact = (states[:, 0] - 1e8).var(axis=0, ddof=1)
    assert np.diag(streamed.moments().cross[0]) / 499 == pytest.approx(exact, rel=1e-7)
    safe = np.repeat([True, False], 250)
    exact = (states[safe] - 1e8).var(axis=0, ddof=1).mean(axis=-1)
    assert profiles(states, ~safe).safe_variance == pytest.approx(exact, rel=1e-7)


def test_bad_input_is_told() -> None:
    states = planted()
    empty = Accumulator(LAYERS, WIDTH)
    with pytest.raises(GeometryBenchError, match="class is empty"):
        empty.moments()
    with pytest.raises(GeometryBenchError, match="NaN"):
        empty.add(np.full((1, LAYERS, WIDTH), np.nan))
    with pytest.raises(GeometryBenchError, match="does not fit"):
        empty.add(states[:, :2])
    with pytest.raises(GeometryBenchError, match="fewer than two prompts of a class"):
        profiles(states, np.arange(2 * PROMPTS) > 0)
    with pytest.raises(GeometryBenchError, match="no ratio of variances"):
        _ = profiles(np.repeat([0.1, 0.7], 7)[:, None, None] * np.ones((14, 1, 2)), np.arange(14) > 6).variance_ratio
    constant = np.where(LABELS, 0.1, 0.7)[:, None, None] * np.ones((1, 2, 3))
    with pytest.raises(GeometryBenchError, match="no ratio of variances"):
        _ = bootstrap_profiles(constant, LABELS, draws=5).variance_ratio
    with pytest.raises(GeometryBenchError, match="each class needs at least two prompts"):
        bootstrap_profiles(states, np.zeros(2 * PROMPTS))
