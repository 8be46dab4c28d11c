"""How often intervals hold the truth: seeded simulations of coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

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
