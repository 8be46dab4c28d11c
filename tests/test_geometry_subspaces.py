"""Subspaces against numpy's SVD, planted overlaps, and the expectations of random ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import ETAS, SHAPES, matrix
from scipy.stats import ortho_group

from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.moments import Accumulator
from geometry_bench.geometry.subspaces import (
    Decomposition,
    OverlapSweep,
    decompose_second_moment,
    energy_ranks,
    haar_deviation,
    haar_mean,
    matched_covariance_null,
    mso_table,
    overlap_sweep,
    own_energy,
    project_vector,
    random_basis,
    rank_of_share,
)


def decompose(delta: np.ndarray) -> Decomposition:
    """Left singular vectors and energies of a matrix (rows, columns)."""
    values = delta.astype(np.float64)
    return decompose_second_moment(values @ values.T, values.shape[1])


def about_mean(states: np.ndarray) -> np.ndarray:
    """Activations (prompts, width) as a matrix of columns about their mean."""
    return (states - states.mean(axis=0)).T


def sweep_of(v: Decomposition, w: Decomposition, thresholds: list[float]) -> OverlapSweep:
    return overlap_sweep((v.vectors.T @ w.vectors) ** 2, v, w, thresholds)


def mso(v: np.ndarray, w: np.ndarray) -> float:
    return float(mso_table(v, w)[-1, -1])


def energy_kept(basis: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """E_k for k = 1 … columns of an orthonormal basis, written out."""
    return np.cumsum(((basis.T @ delta.astype(np.float64)) ** 2).sum(axis=1)) / (delta.astype(np.float64) ** 2).sum()


@pytest.mark.parametrize("kind", SHAPES)
def test_energies_ranks_and_overlap_are_those_of_numpys_svd(kind: str) -> None:
    a, b = (matrix(kind, seed) for seed in (1, 2))
    left_a, sigma_a, _ = np.linalg.svd(a.astype(np.float64), full_matrices=False)
    left_b, sigma_b, _ = np.linalg.svd(b.astype(np.float64), full_matrices=False)
    v, w = decompose(a), decompose(b)
    assert v.rank == np.linalg.matrix_rank(a.astype(np.float64))
    assert v.state == ("deficient" if kind.startswith("deficient") else "full")
    assert v.vectors.T @ v.vectors == pytest.approx(np.eye(v.rank), abs=1e-12)
    assert v.total == pytest.approx((sigma_a**2).sum())
    assert own_energy(v) == pytest.approx((np.cumsum(sigma_a**2) / (sigma_a**2).sum())[: v.rank], abs=1e-10)
    sweep = sweep_of(v, w, ETAS)
    for eta, k_v, k_w, value in zip(ETAS, sweep.ranks_v, sweep.ranks_w, sweep.overlap, strict=True):
        i, j = (int(np.argmax(np.cumsum(s**2) / (s**2).sum() >= eta - 1e-12)) + 1 for s in (sigma_a, sigma_b))
        assert (k_v, k_w) == (i, j)
        expected = ((left_a[:, :i].T @ left_b[:, :j]) ** 2).sum() / min(i, j)
        assert value == pytest.approx(expected, abs=1e-8)
    assert sweep.excess == pytest.approx(sweep.overlap - np.maximum(sweep.ranks_v, sweep.ranks_w) / len(a))


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(12, 20), st.integers(0, 10**6))
def test_overlap_is_one_of_identical_zero_of_orthogonal_and_blind_to_rotation_and_sign(
    k: int, other: int, d: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    axes = np.linalg.qr(generator.standard_normal((d, d)))[0]
    v, w = axes[:, :k], axes[:, k : k + other]
    rotation = np.linalg.qr(generator.standard_normal((k, k)))[0] * generator.choice([-1, 1], k)
    assert mso(v, v @ rotation) == pytest.approx(1, abs=1e-12)
    assert mso(v, w) == pytest.approx(0, abs=1e-12)
    assert mso(v, axes[:, : k + other]) == pytest.approx(1, abs=1e-12)
    u = np.linalg.qr(generator.standard_normal((d, other)))[0]
    assert mso(v @ rotation, u) == pytest.approx(mso(v, u), abs=1e-12)
    assert mso(v, u) == pytest.approx(mso(u, v), abs=1e-12)
    assert mso(v, u) == pytest.approx(((v.T @ u) ** 2).sum() / min(k, other), abs=1e-12)


@pytest.mark.parametrize("shared", [0, 2, 5, 8])
def test_a_planted_shared_subspace_gives_its_overlap(shared: int) -> None:
    axes = ortho_group.rvs(60, random_state=0)
    generator = np.random.default_rng(0)
    first, second = axes[:, :8], np.concatenate([axes[:, :shared], axes[:, 20 : 28 - shared]], axis=1)
    noise = 1e-3
    a, b = (
        q @ generator.standard_normal((8, 200)) + noise * generator.standard_normal((60, 200)) for q in (first, second)
    )
    va, vb = decompose(a), decompose(b)
    assert energy_ranks(va, [0.999])[0] == 8
    assert sweep_of(va, vb, [0.999]).overlap[0] == pytest.approx(shared / 8, abs=0.01)
    # The same from activations that stream by, about a mean far from the origin.
    accumulator = Accumulator(1, 60)
    for part in np.array_split(a.T + 3.0, 9):
        accumulator.add(part[:, None])
    streamed = decompose_second_moment(accumulator.moments().cross[0], 200)
    assert sweep_of(streamed, decompose(about_mean(b.T)), [0.999]).overlap[0] == pytest.approx(shared / 8, abs=0.01)
    direct = decompose(about_mean(a.T + 3.0))
    assert streamed.energies == pytest.approx(direct.energies, rel=1e-9, abs=1e-9 * direct.total)


def test_random_subspaces_meet_their_expectations_within_three_standard_errors() -> None:
    rows, columns, draws = 30, 20, 300
    delta = matrix("deficient", 5)
    bases = [random_basis(rows, columns, seed) for seed in range(draws)]
    energies = np.array([energy_kept(basis, delta) for basis in bases])
    for k in (1, 7, 20):
        values = energies[:, k - 1]
        error = values.std(ddof=1) / np.sqrt(draws)
        assert abs(values.mean() - k / rows) < 3 * error
    for k_v, k_w in ((1, 1), (4, 10), (15, 15)):
        values = np.array([mso(bases[i][:, :k_v], bases[i - 1][:, :k_w]) for i in range(draws)])
        assert abs(values.mean() - haar_mean(k_v, k_w, rows)) < 3 * haar_deviation(k_v, k_w, rows) / np.sqrt(draws)
        assert values.std(ddof=1) == pytest.approx(haar_deviation(k_v, k_w, rows), rel=0.2)
    gaussian = [
        energy_kept(np.linalg.svd(np.random.default_rng(s).standard_normal((rows, columns)))[0][:, :7], delta)[-1]
        for s in range(draws)
    ]
    assert abs(np.mean(gaussian) - energies[:, 6].mean()) < 3 * np.sqrt(2) * np.std(gaussian) / np.sqrt(draws)


def test_ranks_from_a_share_by_both_rules() -> None:
    assert [rank_of_share(r, 2048, 512) for r in (0.01, 0.25, 0.5, 0.75, 0.99)] == [5, 128, 256, 384, 507]
    assert [rank_of_share(r, 2048, 512, "floor") for r in (0.01, 0.25, 0.5, 0.75, 0.99)] == [5, 128, 256, 384, 506]
    assert (rank_of_share(0.01, 20, 20), rank_of_share(0.01, 20, 20, "floor")) == (1, 0)
    assert rank_of_share(0.29, 100, 100, "floor") == 29
    assert rank_of_share(0.5, 5, 9) == 2


def test_fewest_directions_that_hold_the_energy() -> None:
    found = decompose(np.diag([2.0, 1.0, 1.0, np.sqrt(2), 0.0]))
    assert found.rank == 4
    assert energy_ranks(found, [0.01, 0.5, 0.51, 0.75, 0.76, 0.875, 0.99, 1.0]).tolist() == [1, 1, 2, 2, 3, 3, 4, 4]


def test_a_vector_is_projected_on_one_axis() -> None:
    axis, delta = np.array([3.0, 4.0, 0.0]), np.array([1.0, 2.0, 5.0])
    assert project_vector(axis, delta, "parallel") == pytest.approx(11 / 25 * axis)
    assert project_vector(axis, delta, "orthogonal") @ axis == pytest.approx(0)


def test_the_floor_lies_between_chance_and_two_classes_of_one_covariance() -> None:
    generator = np.random.default_rng(0)
    axes = ortho_group.rvs(30, random_state=2)
    scale = np.geomspace(1, 0.05, 30)
    a, b = ((generator.standard_normal((400, 30)) * scale) @ axes.T for _ in range(2))
    etas = [0.3, 0.6, 0.9]
    va, vb = (decompose(about_mean(x)) for x in (a, b))
    between = sweep_of(va, vb, etas)
    pooled = decompose(about_mean(np.concatenate([a, b])))
    floor = matched_covariance_null(pooled, between.ranks_v.tolist(), between.ranks_w.tolist(), draws=40).mean(axis=0)
    assert (floor < between.overlap - 0.1).all()
    assert (floor > between.haar_mean + 0.02).all()
    # Where nothing varies more than anything else the floor is the Haar expectation.
    flat = decompose(np.eye(30))
    null = matched_covariance_null(flat, [3, 10], [5, 10], draws=200)
    errors = np.array([haar_deviation(3, 5, 30), haar_deviation(10, 10, 30)]) / np.sqrt(200)
    assert (np.abs(null.mean(axis=0) - [5 / 30, 10 / 30]) < 3 * errors).all()


def test_zero_and_undefined_matrices_are_told_apart() -> None:
    zero = decompose(np.zeros((4, 3)))
    full = decompose(np.eye(4, 3))
    assert (zero.state, zero.rank, zero.total) == ("zero", 0, 0.0)
    with pytest.raises(GeometryBenchError, match="zero matrix has no energy"):
        sweep_of(zero, full, [0.5])
    with pytest.raises(GeometryBenchError, match=r"the activations' moment holds NaN"):
        decompose_second_moment(np.full((2, 2), np.nan), 2, name="the activations' moment")
    with pytest.raises(GeometryBenchError, match="must be a symmetric matrix"):
        decompose_second_moment(np.triu(np.ones((3, 3))), 5)
    with pytest.raises(GeometryBenchError, match="do not lie in one space"):
        mso_table(full.vectors, np.eye(5))
    with pytest.raises(GeometryBenchError, match=r"must lie in \(0, 1\]"):
        energy_ranks(full, [0.0])
    with pytest.raises(GeometryBenchError, match="axis of a 1-D projection is zero"):
        project_vector(np.zeros(3), np.ones(3), "parallel")
