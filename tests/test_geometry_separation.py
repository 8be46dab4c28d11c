"""Separation of classes: planted truth, scikit-learn, and who is resampled together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.auroc import auroc, auroc_jackknife
from geometry_bench.geometry.clusters import (
    bootstrap_counts,
    leave_one_cluster_out,
    permuted_labels,
    split_halves,
)
from geometry_bench.geometry.held_out import earliest_within, held_out_auroc, held_out_values
from geometry_bench.geometry.scorers import Scorer, closeness_scorer, outlier_scorer, projection_scorer
from geometry_bench.geometry.thresholds import balanced_accuracy, best_threshold, pooled_threshold, threshold_gap

HALF = np.repeat([False, True], 300)


def planted(d: float, prompts: int = 300, width: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two Gaussian classes that differ by d along one direction of unit variance."""
    labels = np.repeat([False, True], prompts)
    states = np.random.default_rng(seed).standard_normal((2 * prompts, width))
    states[labels, 0] += d
    return states, labels


def gaussian_auroc(d: float) -> float:
    """AUROC of two Gaussian classes of unit variance whose means differ by d."""
    return float(stats.norm.cdf(d / np.sqrt(2)))


def dealt(labels: np.ndarray, groups: int) -> np.ndarray:
    """Groups of prompts with as many of either class in each."""
    codes = np.empty(len(labels), dtype=int)
    for value in (False, True):
        codes[labels == value] = np.arange((labels == value).sum()) % groups
    return codes


def delong(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROCs (k,) of scores (k, prompts) and their covariance (k, k) by DeLong, DeLong & Clarke-Pearson 1988."""
    pairs = scores[:, labels][:, :, None] - scores[:, ~labels][:, None, :]
    wins = (pairs > 0) + 0.5 * (pairs == 0)
    harmful, safe = wins.mean(axis=2), wins.mean(axis=1)
    return wins.mean(axis=(1, 2)), np.cov(harmful) / harmful.shape[1] + np.cov(safe) / safe.shape[1]


def fixed(scores: np.ndarray) -> Scorer:
    """Scores (members, prompts) that are the same whatever prompts are fitted on."""
    return lambda weights: np.broadcast_to(scores, (len(weights), *scores.shape))


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties and labels with at least two prompts of each class."""
    n = draw(st.integers(4, 25))
    labels = np.array([False, False, True, True, *draw(st.lists(st.booleans(), min_size=n - 4, max_size=n - 4))])
    scores = draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n))
    return np.array(scores, dtype=float), labels


@pytest.mark.parametrize("d", [0.0, 0.5, 1.0, 2.0])
def test_gaussian_classes_have_the_auroc_of_their_d_prime(d: float) -> None:
    states, labels = planted(d, prompts=20_000, width=1)
    assert auroc(states[:, 0], labels) == pytest.approx(gaussian_auroc(d), abs=0.01)


@settings(max_examples=60)
@given(scored(), st.data())
def test_auroc_is_scikit_learns_with_ties_weights_and_reversed_sign(
    case: tuple[np.ndarray, np.ndarray], data: st.DataObject
) -> None:
    scores, labels = case
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert auroc(-scores, labels) == pytest.approx(1 - auroc(scores, labels), abs=1e-12)
    assert auroc(scores, labels, np.ones(len(labels))) == pytest.approx(float(auroc(scores, labels)), abs=1e-12)
    counts = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(labels), max_size=len(labels))))
    counts[[0, 2]] = 1
    expected = roc_auc_score(labels, scores, sample_weight=counts)
    rows = auroc(np.stack([scores, -scores]), labels, np.stack([counts, counts]))
    assert rows == pytest.approx([expected, 1 - expected], abs=1e-12)


def test_delong_agrees_with_the_jackknife_and_with_repeated_draws() -> None:
    states, labels = planted(1.0, prompts=150, width=2)
    scores = np.stack([states[:, 0], states[:, 0] + states[:, 1]])
    values, covariance = delong(scores, labels)
    assert values == pytest.approx([roc_auc_score(labels, s) for s in scores])
    jackknife = auroc_jackknife(scores[0], labels)
    assert np.sqrt(covariance[0, 0]) == pytest.approx(jackknife.interval.error, rel=0.01)
    difference = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    fresh = [planted(1.0, prompts=150, width=2, seed=s)[0] for s in range(1, 401)]
    drawn = np.array([[auroc(x[:, 0], labels), auroc(x.sum(axis=1), labels)] for x in fresh])
    assert np.sqrt(covariance[0, 0]) == pytest.approx(drawn[:, 0].std(), rel=0.15)
    assert np.sqrt(difference) == pytest.approx((drawn[:, 0] - drawn[:, 1]).std(), rel=0.15)


def test_topics_widen_the_interval_when_their_prompts_resemble_one_another() -> None:
    generator = np.random.default_rng(3)
    topics = np.repeat(np.arange(40), 15)
    labels = topics >= 20
    errors = []
    for _ in range(20):
        scores = labels * 1.0 + generator.standard_normal(40)[topics] + 0.5 * generator.standard_normal(600)
        jackknife = auroc_jackknife(scores, labels, topics)
        bootstrap = auroc(scores, labels, bootstrap_counts(labels, topics, draws=300)).std(ddof=1)
        errors.append((jackknife.interval.error, bootstrap, auroc_jackknife(scores, labels).interval.error))
    clustered, bootstrapped, alone = np.mean(errors, axis=0)
    truth = np.std(
        [
            auroc(labels * 1.0 + generator.standard_normal(40)[topics] + 0.5 * generator.standard_normal(600), labels)
            for _ in range(400)
        ]
    )
    assert clustered == pytest.approx(truth, rel=0.15)
    assert bootstrapped == pytest.approx(truth, rel=0.15)
    assert alone < truth / 2


def test_intervals_cover_the_planted_value_about_as_often_as_they_say() -> None:
    truth, hits = gaussian_auroc(1.0), 0
    for seed in range(200):
        states, labels = planted(1.0, prompts=40, width=1, seed=seed)
        interval = auroc_jackknife(states[:, 0], labels).interval
        hits += interval.low <= truth <= interval.high
    assert 0.90 <= hits / 200 <= 0.99


def test_a_reversed_sign_stays_below_one_half() -> None:
    states, labels = planted(2.0)
    forward, backward = (auroc_jackknife(sign * states[:, 0], labels) for sign in (1, -1))
    assert forward.interval.low > 0.5 > backward.interval.high
    assert backward.auroc == pytest.approx(1 - forward.auroc)
    nothing = auroc_jackknife(states[:, 5], labels).interval
    assert nothing.low < 0.5 < nothing.high


def test_complete_separation_of_few_prompts_is_not_certain() -> None:
    labels = np.repeat([False, True], 5)
    interval = auroc_jackknife(np.arange(10.0), labels).interval
    assert (interval.low, interval.high) == (pytest.approx(0.025 ** (1 / 5)), 1.0)
    assert auroc_jackknife(-np.arange(10.0), labels).interval.high == pytest.approx(1 - 0.025 ** (1 / 5))


def test_a_direction_fitted_to_noise_separates_in_sample_but_not_held_out() -> None:
    states, labels = planted(0.0, prompts=40, width=200)
    result = held_out_auroc(projection_scorer(states, labels), labels, splits=10)
    assert result.in_sample > 0.95
    assert result.interval.low < 0.5 < result.interval.high


def test_held_out_auroc_finds_the_planted_value_and_its_fit_is_the_difference_of_means() -> None:
    states, labels = planted(1.5, width=4)
    result = held_out_auroc(projection_scorer(states, labels), labels, dealt(labels, 20), splits=10)
    truth = gaussian_auroc(1.5)
    assert result.auroc == pytest.approx(truth, abs=0.02)
    assert result.interval.low < truth < result.interval.high
    assert len(result.leave_one_out) == 20
    half = split_halves(labels, splits=1)[0]
    direction = states[half & labels].mean(axis=0) - states[half & ~labels].mean(axis=0)
    by_hand = roc_auc_score(labels[~half], states[~half] @ direction)
    assert held_out_values(projection_scorer(states, labels), labels, splits=1)[0, 0] == pytest.approx(by_hand)


def test_scores_by_distance_are_those_computed_directly() -> None:
    states, labels = planted(1.0, prompts=20, width=6)
    fit = np.random.default_rng(1).integers(0, 3, len(labels)).astype(float)
    harmful = np.average(states[labels], axis=0, weights=fit[labels])
    assert closeness_scorer(states, labels)(fit)[0] == pytest.approx(-np.linalg.norm(states - harmful, axis=1))
    safe = np.average(states[~labels], axis=0, weights=fit[~labels])
    covariance = np.cov(states[~labels].T, aweights=fit[~labels], ddof=0)
    shrunk = 0.8 * covariance + 0.2 * np.trace(covariance) / 6 * np.eye(6)
    direct = np.sqrt(np.einsum("nd,nd->n", (states - safe) @ np.linalg.inv(shrunk), states - safe))
    assert outlier_scorer(states, labels, shrinkage=0.2)(fit)[0] == pytest.approx(direct)


def test_harmful_outliers_in_every_direction_are_seen_by_distance_only() -> None:
    states, labels = planted(0.0, prompts=100, width=5)
    states[labels] *= 3
    by_distance = held_out_values(outlier_scorer(states, labels), labels, splits=4).mean()
    by_projection = held_out_values(projection_scorer(states, labels), labels, splits=4).mean()
    assert by_distance > 0.95
    assert by_projection < 0.65


def test_thresholds_are_the_best_by_scikit_learns_balanced_accuracy() -> None:
    generator = np.random.default_rng(0)
    labels = generator.random(80) < 0.3
    scores = np.round(labels + generator.standard_normal(80), 1)
    best = best_threshold(scores, labels)
    every = [balanced_accuracy_score(labels, scores > t) for t in np.linspace(-4, 5, 901)]
    assert best.balanced_accuracy == pytest.approx(max(every))
    assert balanced_accuracy_score(labels, scores > best.value) == pytest.approx(best.balanced_accuracy)
    assert balanced_accuracy(scores, labels, np.array([-9.0, 9.0])) == pytest.approx([0.5, 0.5])
    assert best_threshold(-scores, labels).balanced_accuracy < best.balanced_accuracy


def test_one_threshold_serves_members_of_one_scale_and_fails_shifted_ones() -> None:
    generator = np.random.default_rng(0)
    groups = dealt(HALF, 10)
    same = HALF * 2.0 + generator.standard_normal((3, 600))
    alike = threshold_gap(fixed(same), HALF, groups, splits=3)
    shifted = threshold_gap(fixed(same + np.array([[0.0], [10.0], [20.0]])), HALF, groups, splits=3)
    assert alike.interval.low < 0 < alike.interval.high or abs(alike.gap) < 0.01
    # One threshold then serves one member (Φ(1) = 0.84) and leaves two at chance.
    assert shifted.own == pytest.approx(stats.norm.cdf(1), abs=0.02)
    assert shifted.pooled == pytest.approx((stats.norm.cdf(1) + 1) / 3, abs=0.02)
    assert shifted.interval.low > 0.15
    assert pooled_threshold(same, HALF).value == pytest.approx(1.0, abs=0.3)


def test_earliest_layer_within_tolerance_of_the_best() -> None:
    assert earliest_within(np.array([0.5, 0.70, 0.885, 0.90, 0.89])) == 2
    assert earliest_within(np.array([0.5, 0.70, 0.885, 0.90, 0.89]), tolerance=0.01) == 3


TOPICS = np.array(["a", "a", "b", "b", "c", "c", "d", "d", "e", "e", "f", "f"])
PURE = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1], dtype=bool)
MIXED = np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1], dtype=bool)


@pytest.mark.parametrize("labels", [PURE, MIXED])
def test_prompts_of_a_topic_stay_together_and_no_resample_loses_a_class(labels: np.ndarray) -> None:
    for rows in (
        bootstrap_counts(labels, TOPICS, draws=50),
        leave_one_cluster_out(TOPICS, 12),
        split_halves(labels, TOPICS, splits=50).astype(float),
    ):
        assert (rows[:, ::2] == rows[:, 1::2]).all()
        assert ((rows @ labels) > 0).all()
        assert ((rows @ ~labels) > 0).all()
    assert (bootstrap_counts(labels, TOPICS, draws=50).sum(axis=1) == 12).all()
    assert (leave_one_cluster_out(TOPICS, 12).sum(axis=1) == 10).all()


def test_labels_are_permuted_within_mixed_topics_and_among_the_prompts_of_all_others() -> None:
    mixed = permuted_labels(MIXED, TOPICS, draws=200)
    assert (mixed[:, ::2] != mixed[:, 1::2]).all()
    pure = permuted_labels(PURE, TOPICS, draws=2000)
    assert (pure.sum(axis=1) == 6).all()
    assert len(np.unique(pure, axis=0)) > 800


def test_bad_input_is_told() -> None:
    states, labels = planted(1.0, prompts=4, width=3)
    with pytest.raises(GeometryBenchError, match="each class needs at least two prompts, but there are 8 safe and 0"):
        auroc(states[:, 0], np.zeros(8))
    with pytest.raises(GeometryBenchError, match="NaN"):
        auroc(np.full(8, np.nan), labels)
    with pytest.raises(GeometryBenchError, match="8 labels but 3 scores"):
        auroc(np.zeros(3), labels)
    with pytest.raises(GeometryBenchError, match="one class only"):
        auroc(states[:, 0], labels, labels.astype(float))
    with pytest.raises(GeometryBenchError, match="same for every prompt"):
        projection_scorer(np.full((8, 3), 0.1), labels)
    with pytest.raises(GeometryBenchError, match="at least 4 topics in each class, but there are 2 safe and 2 harmful"):
        held_out_auroc(projection_scorer(states, labels), labels, list("aabbccdd"))
    with pytest.raises(GeometryBenchError, match="8 prompts but 2 topics"):
        auroc_jackknife(states[:, 0], labels, ["a", "b"])
    with pytest.raises(GeometryBenchError, match="has one member"):
        threshold_gap(fixed(states[None, :, 0]), labels)
