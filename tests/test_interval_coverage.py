"""How often intervals hold the truth: seeded simulations of coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from geometry_bench.geometry.directions import cosine as plain_cosine
from geometry_bench.geometry.directions import cross_cosine, cross_gram, cross_products, gram_cosines, noise_ratio
from geometry_bench.geometry.groups import Leading, deal_topics, group_sums, leading, left_out, overlaps
from geometry_bench.geometry.held_out import held_out_auroc
from geometry_bench.geometry.resampling import jackknife_error, jackknife_interval
from geometry_bench.geometry.scorers import projection_scorer

SHARES = (0.2, 0.4, 0.6)


def covers_too_rarely(count: int, trials: int, level: float = 0.95) -> bool:
    """Whether so few intervals that hold the truth are fewer than intervals of that level (1 in 1000)."""
    return bool(stats.binomtest(count, trials, level, alternative="less").pvalue < 1e-3)


def test_the_jackknife_of_several_samples_adds_their_variances() -> None:
    """A difference of two means: the error is Welch's; taken for one sample, the distance of the means would count too."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(5, 1, 10), generator.normal(0, 2, 14)
    without = np.array(
        [np.delete(x, i).mean() - y.mean() for i in range(10)] + [x.mean() - np.delete(y, i).mean() for i in range(14)]
    )
    strata = np.repeat([0, 1], [10, 14])
    assert jackknife_error(without, strata) == pytest.approx(np.hypot(stats.sem(x), stats.sem(y)))
    found = jackknife_interval(x.mean() - y.mean(), without, strata=strata)
    half = stats.t.ppf(0.975, 22) * np.hypot(stats.sem(x), stats.sem(y))
    assert (found.low, found.high) == pytest.approx((x.mean() - y.mean() - half, x.mean() - y.mean() + half))


def test_the_interval_of_an_overlap_covers_and_is_less_wide_than_that_of_one_sample() -> None:
    """Three sets, two alike: what is left of the width (about 1.5 times the noise) is the jackknife's own bias."""
    width, prompts, groups, trials = 32, 60, 10, 60
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(width, width)))[0]
    energies, alike = np.sqrt(0.75 ** np.arange(8)), (0.0, 0.9, 0.9)
    spans = [
        c * basis[:, :8] + np.sqrt(1 - c**2) * basis[:, 8 * (1 + place) : 8 * (2 + place)]
        for place, c in enumerate(alike)
    ]
    codes, sets = deal_topics(None, prompts, groups), np.repeat(np.arange(3), groups)
    values, left, intervals = np.zeros(trials), np.zeros((trials, 3 * groups)), []

    def excess(found: list[Leading]) -> float:
        pairs = [np.subtract(*overlaps(found[a], found[b], width)).mean() for a, b in ((0, 1), (0, 2), (1, 2))]
        return float(pairs[2] - (pairs[0] + pairs[1]) / 2)

    for trial in range(trials):
        generator = np.random.default_rng(trial)
        drawn = [(generator.normal(size=(prompts, 8)) * energies) @ span.T for span in spans]
        states = [one + 0.05 * generator.normal(size=(prompts, width)) for one in drawn]
        sums = group_sums([[one[codes == number] for number in range(groups)] for one in states])
        whole = [leading(sums, sums.members(number), SHARES, centred=True) for number in range(3)]
        values[trial] = excess(whole)
        for number in range(3):
            for place, weights in enumerate(left_out(sums, number)):
                less = leading(sums, weights, SHARES, centred=True)
                left[trial, number * groups + place] = excess([*whole[:number], less, *whole[number + 1 :]])
        intervals.append(jackknife_interval(values[trial], left[trial], strata=sets))
    truth, noise = values.mean(), values.std(ddof=1)
    assert not covers_too_rarely(sum(one.low <= truth <= one.high for one in intervals), trials)
    apart, together = (np.mean([jackknife_error(row, strata) for row in left]) for strata in (sets, None))
    assert apart < 0.95 * together
    assert noise < apart < 1.7 * noise


@pytest.mark.parametrize(("apart", "widest"), [(2.5, 1.2), (0.0, 1.75)], ids=["told apart", "nothing to tell"])
def test_the_interval_of_a_held_out_auroc_covers_and_is_wide_where_noise_rules(apart: float, widest: float) -> None:
    """Fit and score act together, which a jackknife counts twice (Efron & Stein): up to √2 in the error, no more."""
    topics, per_topic, width, trials = 20, 2, 8, 150
    labels = np.repeat([False, True], topics * per_topic)
    names = np.tile(np.repeat(np.arange(topics), per_topic), 2)
    found = []
    for trial in range(trials):
        generator = np.random.default_rng(trial)
        states = generator.normal(size=(len(labels), width)) + 0.3 * generator.normal(size=(topics, width))[names]
        states[labels, 0] += apart
        found.append(held_out_auroc(projection_scorer(states, labels), labels, names, splits=4))
    values = np.array([one.auroc for one in found])
    assert not covers_too_rarely(sum(one.interval.low <= values.mean() <= one.interval.high for one in found), trials)
    error = np.sqrt(np.mean([one.interval.error**2 for one in found]))
    assert 0.9 < error / values.std(ddof=1) < widest


# Cosines of axes that share their reference

WIDTH, MESSAGES = 512, 8


def axes_by_message(generator: np.random.Generator, cosine: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Two unit axes at a cosine, message by message, both less the same noisy reference; ``noise`` is that of a mean."""
    sd = noise * np.sqrt(MESSAGES / 2 / WIDTH)
    first, second, reference = sd * generator.normal(size=(3, MESSAGES, WIDTH))
    e = np.eye(WIDTH)
    return e[0] + first - reference, cosine * e[0] + np.sqrt(1 - cosine**2) * e[1] + second - reference


@pytest.mark.parametrize("truth", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("noise", [0.1, 0.3, 0.5, 1.0])
def test_the_interval_of_a_cosine_covers_whatever_noise_the_axes_share(truth: float, noise: float) -> None:
    """Means that share a reference miss: at noise 0.3 in half of the data sets or more, but for cosines near one half."""
    trials, covered, by_means = 100, 0, 0
    keep = ~np.eye(MESSAGES, dtype=bool)
    for trial in range(trials):
        both = axes_by_message(np.random.default_rng(trial), truth, noise)
        for statistic in (cross_cosine, lambda a, b: plain_cosine(a.mean(axis=-2), b.mean(axis=-2))):
            value = float(statistic(*both))
            left = np.array([float(statistic(*(one[row] for one in both))) for row in keep])
            found = jackknife_interval(value, left, correlation=True)
            if statistic is cross_cosine:
                covered += found.low <= truth <= found.high
            else:
                by_means += found.low <= truth <= found.high
    assert not covers_too_rarely(covered, trials)
    if noise >= 0.3 and truth != 0.3:
        assert by_means < 0.6 * trials


def test_products_of_different_messages_are_what_their_name_says() -> None:
    a, b = np.random.default_rng(3).normal(size=(2, 5, 7)) + 1
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    assert cross_products(a, b) == pytest.approx(np.mean([a[i] @ b[j] for i, j in pairs]))
    gram = cross_gram(np.stack([a, b]))
    assert gram == pytest.approx(np.array([[cross_products(x, y) for y in (a, b)] for x in (a, b)]))
    assert gram_cosines(gram)[0, 1] == pytest.approx(cross_cosine(a, b))
    assert np.isnan(cross_cosine(a, np.array([[1.0] * 7, [-1.0] * 7, [0.0] * 7, [1.0] * 7, [-1.0] * 7])))
    spread = np.array([[2.0, 0.0], [4.0, 0.0]])[:, None]  # mean 3, variance 2, so that the noise of the mean is 1
    assert noise_ratio(spread, np.zeros_like(spread)) == pytest.approx([1 / 3])
