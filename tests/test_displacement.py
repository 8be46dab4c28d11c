"""How far a contrast has moved: planted displacements, size and power; tests of equivalence against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from geometry_bench.geometry.displacement import Folded, deal_folds, displacement, shared_part
from geometry_bench.geometry.equivalence import Change
from geometry_bench.geometry.openings import log_odds, openings

BLOCKS, WIDTH, PROMPTS, FOLDS = 3, 24, 120, 20
LABELS = np.arange(PROMPTS) % 2 == 0
DEALT = deal_folds([str(n // 2) for n in range(PROMPTS)], LABELS, FOLDS)


def states(generator: np.random.Generator, length: float = 2.0, noise: float = 1.0) -> np.ndarray:
    """Prompts of two classes whose means lie ``length`` apart along the first axis, at every block."""
    x = noise * generator.normal(size=(PROMPTS, BLOCKS, WIDTH))
    x[LABELS, :, 0] += length
    return x


def compare(child: np.ndarray, parent: np.ndarray):
    return displacement(*(Folded.of_classes(x, LABELS, DEALT) for x in (child, parent)))


def test_a_linear_edit_is_displaced_by_its_dose_whatever_the_noise() -> None:
    """Ablating a share of the direction moves the contrast by that share; turning it by an angle by 2 sin(angle / 2)."""
    parents = [states(np.random.default_rng(seed)) for seed in range(20)]
    kept = np.array([0.75, *[1] * (WIDTH - 1)])
    rounds = [compare(x * kept, x) for x in parents]
    assert np.mean([one.squared.value for one in rounds]) == pytest.approx(0.25**2, rel=0.05)
    assert np.mean([one.gain.value for one in rounds]) == pytest.approx(-0.25, abs=0.01)
    turn, angle = np.eye(WIDTH), np.deg2rad(10)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    rounds = [compare(x @ turn.T, x) for x in parents]
    assert np.mean([one.squared.value for one in rounds]) == pytest.approx(4 * np.sin(angle / 2) ** 2, rel=0.05)
    assert np.mean([one.cosine.value for one in rounds]) == pytest.approx(np.cos(angle), abs=2e-3)


def test_another_sample_of_the_same_model_is_not_displaced_on_average() -> None:
    """δ² is unbiased: independent noise in both gives 0 on average, where the plain estimate gives .4.

    Its error errs on the safe side there: a jackknife doubles the variance of a quadratic form that is 0.
    """
    rounds = [compare(*(states(np.random.default_rng([seed, k])) for k in (0, 1))) for seed in range(60)]
    values = np.array([one.squared.value for one in rounds])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    errors = [one.squared.error for one in rounds]
    assert values.std() < np.mean(errors) < 2 * values.std()


def test_the_alarm_keeps_its_size_at_the_margin_and_has_power_beyond_it() -> None:
    """A displacement that is the margin raises an alarm in 5 % of draws at most; one half as large again nearly always."""
    margin, alarms = 0.1, {0.1: 0, 0.2: 0}
    draws = 200
    for seed in range(draws):
        generator = np.random.default_rng(seed)
        parent = states(generator)
        for dose in alarms:
            child = parent + 0.3 * generator.normal(size=parent.shape)  # a fine-tune moves every prompt by itself, too
            child[LABELS, :, 1] += 2.0 * dose
            found = compare(child, parent).squared
            change = Change(found.value, found.error, FOLDS - 1, PROMPTS, margin**2)
            alarms[dose] += change.p_moved < 0.05
    assert alarms[0.1] / draws <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / draws)
    assert alarms[0.2] / draws > 0.95


def test_the_part_that_changes_have_in_common() -> None:
    generator = np.random.default_rng(3)
    noise = generator.normal(size=(PROMPTS, BLOCKS, WIDTH))
    common = shared_part(Folded.of_changes(noise + np.sqrt(WIDTH) * np.eye(WIDTH)[0], DEALT))
    assert common.value == pytest.approx(0.5, abs=0.03)  # as long as the spread: half
    assert abs(shared_part(Folded.of_changes(noise, DEALT)).value) < 3 * common.error + 0.02


@given(st.integers(0, 10**6), st.integers(8, 30), st.booleans())
def test_every_fold_holds_both_classes_and_whole_topics(seed: int, topics: int, shared: bool) -> None:
    generator = np.random.default_rng(seed)
    names = [str(n) for n in generator.integers(topics, size=PROMPTS)]
    names[: 2 * topics] = [str(n // 2) for n in range(2 * topics)]  # each topic has both classes
    if not shared:
        names = [f"{name} {flag}" for name, flag in zip(names, LABELS, strict=True)]
    folds = deal_folds(names, LABELS, FOLDS)
    for flag in (True, False):
        assert set(folds[flag == LABELS]) == set(range(folds.max() + 1))
        of_class = {(name, fold) for name, fold, one in zip(names, folds, LABELS, strict=True) if one == flag}
        assert len(of_class) == len({name for name, _ in of_class})


# Equivalence


def test_the_tests_of_a_margin_are_those_of_scipy() -> None:
    """Against the one-sample t-tests that they are made of: TOST, and the share of draws of a mean beyond both ends."""
    x = np.random.default_rng(0).normal(0.3, 1, 30)
    error = x.std(ddof=1) / np.sqrt(30)
    change = Change(x.mean(), error, 29, 30, 1.0, -1.0)
    ends = [stats.ttest_1samp(x, end, alternative=side).pvalue for end, side in ((1.0, "less"), (-1.0, "greater"))]
    assert change.p_same == pytest.approx(max(ends))
    beyond = Change(1.5, error, 29, 30, 1.0, -1.0)
    assert beyond.p_moved == pytest.approx(stats.t.sf(0.5 / error, 29) + stats.t.sf(2.5 / error, 29))
    assert Change(0.3, error, 29, 30, 0.0, 0.0).p_moved == pytest.approx(2 * stats.t.sf(0.3 / error, 29))
    assert Change(1.5, error, 29, 30, 1.0).p_moved == pytest.approx(stats.t.sf(0.5 / error, 29))


@given(st.floats(-3, 3), st.floats(0, 2), st.integers(4, 40))
def test_moved_and_same_exclude_each_other_and_the_number_needed_decides(value: float, error: float, df: int) -> None:
    change = Change(value, error, df, 100, 1.0, -1.0)
    assert not (change.p_moved <= 0.05 and change.p_same <= 0.05)
    needed = change.needed(0.05)
    if needed is not None:
        more = Change(value, error * np.sqrt(100 / needed), df, needed, 1.0, -1.0)
        assert min(more.p_moved, more.p_same) <= 0.0501 or more.beyond > 0  # both tails cost a little beyond the margin


def test_a_change_without_error_is_decided_by_its_value() -> None:
    assert [Change(x, 0.0, 7, 8, 1.0, -1.0).p_moved for x in (0.5, 1.0, 1.5)] == [1, 1, 0]
    assert [Change(x, 0.0, 7, 8, 1.0, -1.0).p_same for x in (0.5, 1.0, 1.5)] == [0, 0, 1]
    assert Change(1.0, 0.1, 7, 8, 1.0, -1.0).needed(0.05) is None


# First tokens


def test_the_openings_of_one_class_and_their_odds() -> None:
    """Token 1 opens answers to both classes, 2 and 3 rather those of the True class, 4 is too rare."""
    p = np.array([[0.5, 0.3, 0.15, 0.01], [0.4, 0.3, 0.25, 0.01], [0.9, 0.05, 0.02, 0.01], [0.8, 0.15, 0.02, 0.01]])
    ids = np.array([[1, 2, 3, 4], [2, 1, 3, 4], [1, 5, 2, 6], [1, 5, 2, 6]], dtype=np.int32)
    labels = np.array([True, True, False, False])
    assert openings(ids, np.log(p), labels) == (2, 3)
    odds = log_odds(ids, np.log(p), (2, 3))
    assert odds[0] == pytest.approx(np.log(0.45 / 0.55))
    assert odds[2] == pytest.approx(np.log(0.025 / 0.975))  # 3 is not listed there: half as likely as the least
    assert np.isfinite(log_odds(np.array([[1]], dtype=np.int32), np.array([[0.0]]), (1,))).all()
