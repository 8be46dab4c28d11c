"""Divergence and log-odds of distributions given by log-probabilities: against scipy, and where they are extreme."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, log_softmax
from scipy.stats import entropy

from geometry_bench.geometry.categorical import kl_divergence, log_odds


@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 30))
def test_divergence_is_that_of_scipy(seed: int, scale: float) -> None:
    p, q = log_softmax(scale * np.random.default_rng(seed).standard_normal((2, 5, 40)), axis=-1)
    np.testing.assert_allclose(kl_divergence(p, q), entropy(np.exp(p), np.exp(q), axis=-1), rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(kl_divergence(p, p), 0)


def test_divergence_where_outcomes_are_impossible() -> None:
    with np.errstate(divide="ignore"):
        p, q = np.log([[0.5, 0.5, 0.0], [0.5, 0.25, 0.25]])
    assert kl_divergence(p, q) == pytest.approx(0.5 * np.log(2))
    assert kl_divergence(q, p) == np.inf


@given(seed=st.integers(0, 10**6))
def test_odds_are_those_of_the_mass(seed: int) -> None:
    logs = log_softmax(np.random.default_rng(seed).standard_normal((4, 9)), axis=-1)
    np.testing.assert_allclose(expit(log_odds(logs, [1, 7])), np.exp(logs[:, [1, 7]]).sum(axis=1), rtol=1e-9)


def test_each_row_may_have_a_set_of_its_own() -> None:
    logs = log_softmax(np.random.default_rng(0).standard_normal((3, 5)), axis=-1)
    sets = [(0,), (1, 4), (2, 3)]
    flags = np.array([np.isin(range(5), one) for one in sets])
    expected = [log_odds(row, one) for row, one in zip(logs, sets, strict=True)]
    np.testing.assert_allclose(log_odds(logs, flags), expected)


@pytest.mark.parametrize("odds", [-300.0, -20.0, 0.0, 20.0, 300.0])
def test_odds_are_exact_near_certainty(odds: float) -> None:
    logs = log_softmax(np.array([odds + 1, 1.0]))
    assert log_odds(logs, [0]) == pytest.approx(odds)
