"""The statistics against independent implementations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from scipy.spatial import distance
from sklearn.metrics.pairwise import cosine_similarity

from geometry_bench.geometry.directions import BFLOAT16, FLOAT64, axis, cosine, pair_cosines, split_reference_cosine
from geometry_bench.geometry.dispersion import participation_ratio, spectrum
from geometry_bench.geometry.resampling import (
    holm,
    jackknife_error,
    jackknife_interval,
    permutation_p,
    random_subsets,
)

FINITE = st.floats(-1e3, 1e3, allow_nan=False)


def left_out_means(x: np.ndarray) -> np.ndarray:
    return np.array([np.delete(x, i).mean() for i in range(len(x))])


@given(hnp.arrays(np.float64, st.integers(2, 30), elements=FINITE))
def test_the_jackknife_error_of_a_mean_is_the_textbook_one(x: np.ndarray) -> None:
    assert jackknife_error(left_out_means(x)) == pytest.approx(stats.sem(x), rel=1e-6, abs=1e-8)


def test_the_jackknife_interval_of_a_mean_is_students() -> None:
    x = np.random.default_rng(0).normal(3, 2, 12)
    interval = jackknife_interval(x.mean(), left_out_means(x))
    expected = stats.t.interval(0.95, df=11, loc=x.mean(), scale=stats.sem(x))
    assert (interval.low, interval.high) == pytest.approx(expected)


def test_an_interval_of_a_cosine_stays_below_one() -> None:
    left_out = np.array([0.95, 0.999, 0.97, 0.99])
    fisher, plain = (jackknife_interval(0.99, left_out, correlation=flag) for flag in (True, False))
    assert fisher.low < 0.99 < fisher.high < 1 < plain.high
    assert fisher.error == plain.error
    z = np.arctanh(left_out)
    half = stats.t.ppf(0.975, 3) * np.sqrt(3 / 4 * ((z - z.mean()) ** 2).sum())
    assert fisher.high == pytest.approx(np.tanh(np.arctanh(0.99) + half))
    beyond = jackknife_interval(1.0078, np.array([1.0, 1.0078]), correlation=True)
    assert -1 < beyond.low < beyond.high == 1.0078
    # without one model four agree entirely, which has no z
    short = jackknife_interval(0.7, np.array([1.0, 0.8, 0.4, 0.8, 0.4]), correlation=True)
    assert (short.low >= -1, short.high) == (True, 1.0)


def test_a_jackknife_of_one_value_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two"):
        jackknife_error(np.array([1.0]))


def holm_by_definition(p: list[float], alpha: float) -> list[bool]:
    """Step down: reject the k-th smallest while it is at most alpha / (m - k)."""
    rejected = [False] * len(p)
    for step, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[index] * (len(p) - step) > alpha:
            break
        rejected[index] = True
    return rejected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.sampled_from([0.01, 0.05, 0.3]))
def test_holm_is_its_definition(p: list[float], alpha: float) -> None:
    adjusted = holm(p)
    assert [value <= alpha for value in adjusted] == holm_by_definition(p, alpha)
    assert all(raw <= value <= 1 for raw, value in zip(p, adjusted, strict=True))
    assert all(adjusted[i] <= adjusted[j] for i in range(len(p)) for j in range(len(p)) if p[i] <= p[j])
    # a first step that rejects nothing is the end: the bound by which single cases are judged
    assert any(value <= alpha for value in adjusted) == (min(p) * len(p) <= alpha)


def test_holm_keeps_the_family_wise_error() -> None:
    p = np.random.default_rng(2).random((4000, 8))
    errors = np.mean([min(holm(list(row))) <= 0.05 for row in p])
    assert errors == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 4000))


def test_permutations_are_enumerated_where_there_are_few() -> None:
    x, y = np.array([0.1, 0.9, 0.4, 1.5, 1.1]), np.array([1.0, 2.0, 1.5, 2.2, 2.6])
    p, draws = permutation_p(lambda labels: float(x @ labels), y, draws=120)
    by_hand = [float(x @ np.array(order)) for order in itertools.permutations(y)]
    assert sorted(draws) == pytest.approx(sorted(by_hand))
    assert p == np.mean([value >= x @ y - 1e-12 for value in by_hand])


def test_sampled_permutations_never_give_zero() -> None:
    p, draws = permutation_p(lambda labels: float(labels[:8].sum()), np.arange(16) < 8, draws=50)
    assert len(draws) == 50
    assert 1 / 51 <= p < 0.1
    assert permutation_p(lambda labels: 0.0, np.arange(16), draws=50)[0] == 1


def test_random_subsets_do_not_repeat() -> None:
    subsets = random_subsets(9, 4, 200, seed=3)
    assert subsets.shape == (200, 4)
    assert all(len(set(row)) == 4 and set(row) <= set(range(9)) for row in subsets)
    assert (subsets == random_subsets(9, 4, 200, seed=3)).all()
    with pytest.raises(ValueError, match="cannot be drawn"):
        random_subsets(3, 4, 1, seed=0)


VECTORS = hnp.arrays(np.float32, (2, 7), elements=st.floats(-100, 100, width=32))


@given(VECTORS)
def test_cosines_are_those_of_scipy_and_sklearn(vectors: np.ndarray) -> None:
    a, b = vectors.astype(np.float64)
    if min(np.linalg.norm(a), np.linalg.norm(b)) < 1e-6:
        return
    assert cosine(a, b) == pytest.approx(1 - distance.cosine(a, b), abs=1e-12)
    assert cosine(a, b) == pytest.approx(cosine_similarity([a], [b])[0, 0], abs=1e-12)


def test_the_cosine_with_a_zero_vector_is_undefined() -> None:
    zero, one = np.zeros((2, 3), dtype=np.float32), np.ones((2, 3), dtype=np.float32)
    for arithmetic in (FLOAT64, BFLOAT16):
        assert np.isnan(arithmetic.cosine(zero, one)).all()


def test_pairs_come_in_the_order_of_combinations() -> None:
    axes = np.random.default_rng(4).normal(size=(4, 6))
    expected = [1 - distance.cosine(axes[i], axes[j]) for i, j in itertools.combinations(range(4), 2)]
    assert pair_cosines(axes) == pytest.approx(expected)


def test_an_axis_in_float64_and_in_bfloat16() -> None:
    import torch

    generator = np.random.default_rng(5)
    states, reference = (generator.normal(size=(8, 3, 16)).astype(np.float32) for _ in range(2))
    assert axis(states, reference) == pytest.approx(
        states.astype(np.float64).sum(0) / 8 - reference.astype(np.float64).sum(0) / 8
    )
    rounded = torch.tensor(states).bfloat16().mean(0) - torch.tensor(reference).bfloat16().mean(0)
    assert (axis(states, reference, BFLOAT16) == rounded.float().numpy()).all()


def test_a_bfloat16_cosine_with_itself_can_exceed_one_and_a_float64_one_cannot() -> None:
    vectors = np.random.default_rng(6).normal(size=(2000, 64)).astype(np.float32)
    published, corrected = BFLOAT16.cosine(vectors, vectors), FLOAT64.cosine(vectors, vectors)
    assert published.max() == 1.0078125  # one step of bfloat16 above 1
    assert np.abs(corrected - 1).max() < 1e-14


def test_split_references_take_away_what_a_shared_reference_adds() -> None:
    generator = np.random.default_rng(7)
    shared, split = [], []
    for _ in range(60):
        a, b, reference = generator.normal(size=(3, 8, 32))
        shared.append(float(cosine(a.mean(0) - reference.mean(0), b.mean(0) - reference.mean(0))))
        split.append(split_reference_cosine(a, b, reference)[0])
    assert np.mean(shared) == pytest.approx(0.5, abs=0.05)  # two axes of pure noise that share their reference
    assert np.mean(split) == pytest.approx(0.0, abs=0.05)


def test_all_splits_are_used_where_there_are_few() -> None:
    a, b, reference = np.random.default_rng(8).normal(size=(3, 6, 5)) + 1
    values = []
    for half in itertools.combinations(range(6), 3):
        other = [i for i in range(6) if i not in half]
        left = a[list(half)].mean(0) - reference[list(half)].mean(0)
        right = b[other].mean(0) - reference[other].mean(0)
        values.append(1 - distance.cosine(left, right))
    assert len(values) == 20
    assert split_reference_cosine(a, b, reference) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    many = np.random.default_rng(9).normal(size=(3, 20, 5))
    assert split_reference_cosine(*many, seed=1) == split_reference_cosine(*many, seed=1)


def test_the_spectrum_is_that_of_the_second_moment_matrix() -> None:
    vectors = np.random.default_rng(10).normal(size=(12, 5)) + 2
    raw = np.sort(np.linalg.eigvalsh(vectors.T @ vectors))[::-1]
    assert spectrum(vectors, normalise=False) == pytest.approx(raw / raw.sum())
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert spectrum(vectors) == pytest.approx(np.sort(np.linalg.eigvalsh(unit.T @ unit))[::-1] / 12)
    assert spectrum(vectors * np.arange(1, 13)[:, None]) == pytest.approx(spectrum(vectors))


def test_participation_ratio_counts_directions() -> None:
    assert participation_ratio(spectrum(np.eye(6))) == pytest.approx(6)
    assert participation_ratio(spectrum(np.outer([1.0, -2.0, 3.0], np.ones(4)))) == pytest.approx(1)
    assert participation_ratio(np.array([0.5, 0.25, 0.25])) == pytest.approx(1 / 0.375)
