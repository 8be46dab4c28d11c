"""How often a null is exceeded where there is nothing to find: seeded simulations of the size of tests and nulls."""

from __future__ import annotations

import numpy as np
from scipy import stats

from geometry_bench.geometry.clusters import permuted_labels
from geometry_bench.geometry.magnitude import peak_permutation_p, resampled_profiles

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
