"""Ridge maps and shared directions: scikit-learn, analytic cosines, and a published figure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group
from sklearn.linear_model import Ridge

from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.directions import cosine
from geometry_bench.geometry.transfer import (
    Universal,
    best_penalty,
    fit_ridge,
    mapped_null,
    null_cosine,
    universal_from_gram,
)

PENALTIES = [0.01, 0.1, 1.0, 100.0]


def unit(directions: np.ndarray) -> np.ndarray:
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def universal_direction(directions: np.ndarray, reference: int = 0) -> Universal:
    """The shared direction of directions (members, width) of any length."""
    return universal_from_gram(unit(directions) @ unit(directions).T, reference)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(("prompts", "width"), [(60, 12), (12, 30), (20, 20)])
def test_every_penalty_is_scikit_learns_ridge(prompts: int, width: int, intercept: bool) -> None:
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((prompts, width)) + 2, generator.standard_normal((prompts, 7)) - 1
    new, new_y = generator.standard_normal((9, width)), generator.standard_normal((9, 7))
    path = fit_ridge(x, y, intercept=intercept)
    errors = path.errors(new, new_y, PENALTIES, about_mean=False)
    for penalty, error in zip(PENALTIES, errors, strict=True):
        theirs = Ridge(alpha=penalty, fit_intercept=intercept, solver="cholesky").fit(x, y)
        ours = path.map(penalty)
        assert ours.matrix == pytest.approx(theirs.coef_.T, abs=1e-8)
        assert ours.states(new) == pytest.approx(theirs.predict(new), abs=1e-8)
        assert error == pytest.approx(np.linalg.norm(theirs.predict(new) - new_y) / np.linalg.norm(new_y))
        assert ours.directions(new[0]) == pytest.approx(new[0] @ theirs.coef_.T)


def test_without_penalty_the_map_is_least_squares_even_where_a_dimension_is_dead() -> None:
    generator = np.random.default_rng(1)
    x = generator.standard_normal((50, 6))
    x[:, 5] = x[:, 0]
    y = generator.standard_normal((50, 3))
    assert fit_ridge(x, y, intercept=False).map(0).matrix == pytest.approx(
        np.linalg.lstsq(x, y, rcond=1e-10)[0], abs=1e-9
    )


def test_a_common_mean_flatters_the_error_about_the_origin_only() -> None:
    generator = np.random.default_rng(2)
    x, y = generator.standard_normal((400, 5)), generator.standard_normal((400, 4)) + 30
    path = fit_ridge(x[:300], y[:300], intercept=True)
    assert path.errors(x[300:], y[300:], [1.0], about_mean=False)[0] < 0.05
    assert path.errors(x[300:], y[300:], [1.0], about_mean=True)[0] == pytest.approx(1.0, abs=0.05)
    assert path.mean_eigenvalue == pytest.approx(((x[:300] - x[:300].mean(0)) ** 2).sum() / 5)


def test_a_penalty_at_the_end_of_its_grid_is_flagged() -> None:
    assert best_penalty([0.01, 0.1, 1.0], np.array([0.4909, 0.4906, 0.4876])) == best_penalty(
        [1.0, 0.1, 0.01], np.array([0.4876, 0.4906, 0.4909])
    )
    assert best_penalty([0.01, 0.1, 1.0], np.array([0.4909, 0.4906, 0.4876])).at_edge
    assert not best_penalty([0.1, 1.0, 10.0], np.array([0.5, 0.4, 0.6])).at_edge


# Cosines read off figure 7 of "Do Language Models Share Unsafe Directions in Activation Space?" (2026), two decimals.
SMALL = ([[1, 0.54, 0.19], [0.54, 1, 0.22], [0.19, 0.22, 1]], [0.83, 0.84, 0.52])
LARGE = (
    [[1, 0.56, 0.54, 0.55], [0.56, 1, 0.45, 0.46], [0.54, 0.45, 1, 0.55], [0.55, 0.46, 0.55, 1]],
    [0.84, 0.77, 0.79, 0.80],
)


@pytest.mark.parametrize(("gram", "published"), [SMALL, LARGE])
def test_published_cosines_of_pairs_give_the_published_universal_column(
    gram: list[list[float]], published: list[float]
) -> None:
    found = universal_from_gram(np.array(gram))
    assert found.cosines == pytest.approx(np.array(published), abs=0.01)
    assert (found.leave_one_out < found.cosines - 0.1).all()


@pytest.mark.parametrize("members", [2, 3, 7])
def test_orthogonal_directions_share_one_over_root_n_and_nothing_when_left_out(members: int) -> None:
    directions = ortho_group.rvs(20, random_state=0)[:members] * np.arange(1, members + 1)[:, None]
    found = universal_direction(directions)
    assert found.cosines == pytest.approx(np.full(members, null_cosine(members)))
    assert found.leave_one_out == pytest.approx(np.zeros(members), abs=1e-12)
    assert found.top_share == pytest.approx(1 / members)


@settings(max_examples=30)
@given(st.integers(2, 6), st.integers(6, 20), st.integers(0, 10**6), st.data())
def test_the_shared_direction_is_the_first_right_singular_vector(
    members: int, width: int, seed: int, data: st.DataObject
) -> None:
    directions = np.random.default_rng(seed).standard_normal((members, width)) + 0.5
    reference = data.draw(st.integers(0, members - 1))
    found = universal_direction(directions, reference)
    units = unit(directions)
    _, singular, right = np.linalg.svd(units, full_matrices=False)
    vector = right[0] * np.sign(right[0] @ units[reference])
    assert unit((found.weights @ units)[None])[0] == pytest.approx(vector, abs=1e-7)
    assert found.cosines == pytest.approx(units @ vector, abs=1e-7)
    assert found.cosines[reference] > 0
    assert found.singular_shares == pytest.approx(singular**2 / (singular**2).sum(), abs=1e-12)
    scaled = universal_direction(directions * 7.0, reference)
    assert scaled.cosines == pytest.approx(found.cosines, abs=1e-12)


def test_leave_one_out_is_the_shared_direction_of_the_others() -> None:
    directions = np.random.default_rng(4).standard_normal((4, 15)) + 0.6
    found = universal_direction(directions, 0)
    for member in (1, 2, 3):
        others = np.delete(directions, member, axis=0)
        rest = universal_direction(others, 0).weights @ unit(others)
        assert found.leave_one_out[member] == pytest.approx(float(cosine(directions[member], rest)))
    flipped = directions * np.array([1, -1, 1, 1])[:, None]
    assert universal_direction(flipped, 0).leave_one_out[1] == pytest.approx(-found.leave_one_out[1])


@pytest.mark.parametrize("common", [0.5, 0.8])
def test_a_planted_common_direction_comes_through_random_orthogonal_maps(common: float) -> None:
    generator = np.random.default_rng(0)
    members, width, prompts = 4, 24, 500
    # Mapped direction m is common·g + sqrt(1 − common²)·e_m with g and all e_m orthogonal: cosines of pairs are common².
    axes = ortho_group.rvs(width, random_state=1)
    truth = common * axes[0] + np.sqrt(1 - common**2) * axes[1 : members + 1]
    shared = generator.standard_normal((prompts, width))
    mapped = []
    for member in range(members):
        rotation = np.eye(width) if member == 0 else ortho_group.rvs(width, random_state=10 + member)
        path = fit_ridge(shared @ rotation, shared, intercept=True)
        mapped.append(path.map(1e-6).directions(truth[member] @ rotation))
    found = universal_direction(np.array(mapped))
    pair = common**2
    assert found.cosines == pytest.approx(np.full(members, np.sqrt((1 + (members - 1) * pair) / members)), abs=1e-3)
    others = members - 1
    left_out = np.full(members, np.sqrt(others) * pair / np.sqrt(1 + (others - 1) * pair))
    assert found.leave_one_out == pytest.approx(left_out, abs=1e-3)


def test_random_directions_share_the_null_cosine_in_many_dimensions_and_more_in_few() -> None:
    generator = np.random.default_rng(0)
    high = [universal_direction(generator.standard_normal((4, 4000))) for _ in range(20)]
    assert np.sqrt(np.mean([found.top_share for found in high])) == pytest.approx(null_cosine(4), abs=0.02)
    assert np.abs([found.leave_one_out for found in high]).mean() < 0.02
    low = [universal_direction(generator.standard_normal((4, 8))) for _ in range(200)]
    assert np.sqrt(np.mean([found.top_share for found in low])) > null_cosine(4) + 0.1
    # Members but the reference agree with others in either direction, alike often.
    left_out = np.array([found.leave_one_out[1:] for found in low])
    assert abs(left_out.mean()) < 3 * left_out.std() / np.sqrt(200)
    assert all(found.cosines[0] >= 0 for found in low)


def test_a_map_that_sends_everything_one_way_has_a_null_of_its_own() -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((300, 10))
    rotation = fit_ridge(x, x @ ortho_group.rvs(10, random_state=0), intercept=True).map(1e-6)
    funnel = fit_ridge(x, np.outer(x[:, 0], np.ones(10)), intercept=True).map(1e-6)
    assert np.abs(mapped_null(rotation, np.ones(10))).mean() == pytest.approx(0.26, abs=0.05)
    assert np.abs(mapped_null(funnel, np.ones(10))).mean() == pytest.approx(1.0)


def test_bad_input_is_told() -> None:
    with pytest.raises(GeometryBenchError, match="two models or more"):
        universal_direction(np.ones((1, 3)))
    with pytest.raises(GeometryBenchError, match="reference is member 2"):
        universal_direction(np.eye(2), 2)
    with pytest.raises(GeometryBenchError, match="symmetric"):
        universal_from_gram(np.array([[1.0, 0.5], [0.4, 1.0]]))
    with pytest.raises(GeometryBenchError, match="same prompts in both models"):
        fit_ridge(np.ones((3, 2)), np.ones((4, 2)), intercept=True)
    with pytest.raises(GeometryBenchError, match="do not vary"):
        fit_ridge(np.full((7, 2), 0.1), np.ones((7, 2)), intercept=True)
    with pytest.raises(GeometryBenchError, match="zero or more"):
        fit_ridge(np.eye(3), np.eye(3), intercept=False).map(-1.0)
    with pytest.raises(GeometryBenchError, match="no relative error"):
        fit_ridge(np.eye(3), np.ones((3, 2)), intercept=True).errors(np.eye(3), np.ones((3, 2)), [1.0], about_mean=True)
