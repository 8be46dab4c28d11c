"""Source D's claims on activations as an instrument: planted subspaces, streamed against in-memory, real small models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import SMALL
from hypothesis import given
from hypothesis import strategies as st
from models import tiny_model
from planted import lab_of, measure, verdict

from geometry_bench.activations.pooling import LAST
from geometry_bench.claims.safety_subspaces import activations as claims
from geometry_bench.claims.safety_subspaces.activations import (
    HARMFUL,
    OTHER_HARMFUL,
    REFUSAL_STYLE,
    SETS,
    SHARES,
    USEFUL,
    window,
)
from geometry_bench.claims.safety_subspaces.records import ACTIVATION_CLAIMS
from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.groups import (
    Group,
    Summed,
    deal_topics,
    group_sums,
    halves,
    leading,
    left_out,
    overlaps,
    permuted,
    pooled_covariance,
)
from geometry_bench.geometry.moments import Folding, Moments
from geometry_bench.labs import model as lab_module
from geometry_bench.labs.memo import Memo, remembered
from geometry_bench.labs.model import Grouped, Lab
from geometry_bench.labs.prompt_inputs import prompt_inputs
from geometry_bench.labs.requirements import MEAN_KEPT
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.prompts.sets import RequestSet
from geometry_bench.records.estimates import Variant
from geometry_bench.records.judgement import ClaimVerdict
from geometry_bench.records.measurement import NotApplicableError

Array = Any
LAYERS = 8
ABOVE, NOT_HIGHER, COUNTERPART = (
    f"activations.{name}" for name in ("mso_above_random", "harmful_pair_not_higher", "refusal_counterpart")
)


def streamed(states: Array, codes: Array, batch: int = 37) -> list[Group]:
    """One block's groups (prompts, width) as they come out of a stream of batches."""
    foldings = [Folding(1, states.shape[1]) for _ in range(codes.max() + 1)]
    for start in range(0, len(states), batch):
        rows = slice(start, start + batch)
        for number, folding in enumerate(foldings):
            folding.add(states[rows][codes[rows] == number][:, None].astype(np.float32))
    found = [folding.result() for folding in foldings]
    return [
        Summed(part.count, part.mean[0], part.cross[0]) if isinstance(part, Moments) else part[:, 0] for part in found
    ]


def skewed(generator: np.random.Generator, prompts: int, width: int) -> Array:
    """Prompts about a mean far from the origin, with energies that fall from direction to direction."""
    turned = np.linalg.qr(generator.normal(size=(width, width)))[0]
    spread = generator.normal(size=(prompts, width)) * 0.8 ** np.arange(width)
    return (5 * np.ones(width) + spread @ turned).astype(np.float32)


def by_svd(states: Array, *, centred: bool) -> tuple[Array, Array]:
    """Shares of the energy (directions,) that the first directions of prompts (prompts, width) hold, and these."""
    rows = states.astype(np.float64)
    sigma, directions = np.linalg.svd(rows - rows.mean(axis=0) if centred else rows, full_matrices=False)[1:]
    return np.cumsum(sigma**2) / (sigma**2).sum(), directions.T


def overlaps_by_svd(one: Array, two: Array, *, centred: bool) -> tuple[list[int], list[int], list[float]]:
    """Directions that hold each share η of the energy of two sets (prompts, width), and the overlaps of their spans."""
    (held_v, v), (held_w, w) = (by_svd(states, centred=centred) for states in (one, two))
    ranks_v, ranks_w = ([int(np.argmax(held >= share - 1e-12)) + 1 for share in SHARES] for held in (held_v, held_w))
    pairs = zip(ranks_v, ranks_w, strict=True)
    return ranks_v, ranks_w, [float(((v[:, :i].T @ w[:, :j]) ** 2).sum() / min(i, j)) for i, j in pairs]


# Groups


@given(
    topics=st.lists(st.integers(0, 14), min_size=1, max_size=80),
    groups=st.integers(1, 12),
    seed=st.integers(0, 3),
)
def test_topics_are_dealt_whole_and_evenly(topics: list[int], groups: int, seed: int) -> None:
    codes = deal_topics(topics, len(topics), groups, seed=seed)
    np.testing.assert_array_equal(codes, deal_topics(topics, len(topics), groups, seed=seed))
    sizes = np.bincount(codes)
    assert len(sizes) == min(groups, len(set(topics)))
    for topic in set(topics):
        assert len({code for code, own in zip(codes, topics, strict=True) if own == topic}) == 1
    largest = max(topics.count(topic) for topic in set(topics))
    assert sizes.min() > 0
    assert sizes.max() - sizes.min() <= largest
    alone = np.bincount(deal_topics(None, len(topics), groups, seed=seed))
    assert alone.max() - alone.min() <= 1


@pytest.mark.parametrize("prompts", [(30, 40, 35), (70, 90, 80), (400, 500, 450)], ids=["span", "prompts", "sums"])
@pytest.mark.parametrize("centred", [True, False], ids=["centred", "uncentred"])
def test_streamed_groups_equal_the_decomposition_of_what_they_hold(prompts: tuple[int, ...], centred: bool) -> None:
    """In each of three ways to hold groups: whole, without a group, in halves, permuted."""
    generator, width = np.random.default_rng(1), 120 if prompts[0] < 400 else 24
    states = [skewed(generator, count, width) for count in prompts]
    codes = [deal_topics(None, count, 5) for count in prompts]
    sums = group_sums([streamed(own, code) for own, code in zip(states, codes, strict=True)])
    assert (len(sums.origin) < width) == (sum(prompts) < width)
    assert sums.by_prompt == (max(prompts) < width)
    where = np.concatenate([code + 5 * number for number, code in enumerate(codes)])
    everything = np.concatenate(states)

    def check(a: Array, b: Array) -> None:
        v, w = (leading(sums, weights, SHARES, centred=centred) for weights in (a, b))
        found, haar = overlaps(v, w, sums.width)
        ranks_v, ranks_w, expected = overlaps_by_svd(
            *(everything[weights[where] > 0] for weights in (a, b)), centred=centred
        )
        np.testing.assert_array_equal(v.ranks, ranks_v)
        np.testing.assert_array_equal(w.ranks, ranks_w)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_allclose(haar, np.maximum(ranks_v, ranks_w) / width)

    one, two = sums.members(0), sums.members(1)
    check(one, two)
    check(one, sums.members(2))
    for weights in left_out(sums, 1):
        check(one, weights)
    first = halves(sums.sets, splits=2)[1]
    check(one * first, one * ~first)
    drawn = permuted(sums.sets, draws=2)[1]
    check((drawn == 0).astype(float), (drawn == 1).astype(float))

    pooled = pooled_covariance(sums, (0, 1), centred=centred)
    both = [own.astype(np.float64) - (own.mean(axis=0, dtype=np.float64) if centred else 0) for own in states[:2]]
    covariance = sum(own.T @ own / len(own) for own in both)
    values = np.linalg.eigvalsh(covariance)[::-1][: len(pooled.energies)]
    np.testing.assert_allclose(pooled.energies[:20], values[:20], rtol=1e-6)


def test_sets_moved_to_one_mean_differ_in_spread_alone() -> None:
    generator = np.random.default_rng(0)
    states = [generator.normal(size=(60, 20)) + 30 * number for number in range(2)]
    codes = [deal_topics(None, 60, 4)] * 2
    moved = [own - own.mean(axis=0) for own in states]
    for width in (20, 80):  # by sums, by prompt
        padded, flat = ([np.pad(own, ((0, 0), (0, width - 20))) for own in sets] for sets in (states, moved))
        sums = group_sums([streamed(own, code) for own, code in zip(padded, codes, strict=True)]).about_own_means()
        weights = (np.arange(8) % 2).astype(float)
        rows = np.concatenate(flat)[weights[np.concatenate([codes[0], codes[1] + 4])] > 0]
        held, directions = by_svd(rows, centred=True)
        found = leading(sums, weights, (0.3, 0.5), centred=True)
        assert sums.by_prompt == (width == 80)
        k = len(found.vectors.T)
        assert k == np.argmax(held >= 0.5) + 1
        projectors = [basis @ basis.T for basis in (found.vectors, directions[:, :k])]
        np.testing.assert_allclose(*projectors, atol=1e-4)


def test_a_group_is_held_as_it_is_until_its_second_moment_is_smaller() -> None:
    generator = np.random.default_rng(0)
    states = generator.normal(size=(300, 2, 10)).astype(np.float32)
    few, many = Folding(2, 10), Folding(2, 10)
    for start in range(0, 300, 7):
        if start + 7 <= 20:
            few.add(states[start : start + 7])
        many.add(states[start : start + 7])
    np.testing.assert_array_equal(few.result(), states[:14])
    summed = many.result()
    assert isinstance(summed, Moments)
    assert summed.count == 300
    np.testing.assert_allclose(summed.cross[1], np.cov(states[:, 1].T, ddof=0) * 300, rtol=1e-5, atol=1e-4)
    assert [Folding.size(n, 2, 10) for n in (5, 20, 21, 10**6)] == [400, 1600, 1600, 1600]
    with pytest.raises(GeometryBenchError, match="the group is empty"):
        Folding(2, 10).result()


# Planted sets


def pair_of_sets(generator: np.random.Generator, width: int, cosines: Sequence[float]) -> tuple[Array, Array]:
    """Bases (width, k) whose i-th directions meet at the i-th cosine and are orthogonal to all others."""
    turned = np.linalg.qr(generator.normal(size=(width, width)))[0]
    k, c = len(cosines), np.array(cosines)
    return turned[:, :k], turned[:, :k] * c + turned[:, k : 2 * k] * np.sqrt(1 - c**2)


def test_planted_overlap_is_found_through_the_stream() -> None:
    """Energies 8 : 4 : 2 : 1, so that one direction holds 53 % and two hold 80 %: MSO is the mean of their cos²."""
    generator, width, prompts = np.random.default_rng(3), 48, 6000
    cosines = (0.9, 0.3, 0.5, 0.7)
    bases = pair_of_sets(generator, width, cosines)
    energies = np.sqrt([8.0, 4.0, 2.0, 1.0])
    sets = []
    for basis in bases:
        states = 10 + (generator.normal(size=(prompts, 4)) * energies) @ basis.T
        states += 0.01 * generator.normal(size=(prompts, width))
        groups = streamed(states, deal_topics(None, prompts, 10))
        assert all(isinstance(group, Summed) for group in groups)
        sets.append(groups)
    sums = group_sums(sets)
    v, w = (leading(sums, sums.members(number), SHARES, centred=True) for number in range(2))
    found, haar = overlaps(v, w, width)
    expected = [0.81] * 6 + [(0.81 + 0.09) / 2]
    np.testing.assert_allclose(found, expected, atol=0.01)
    np.testing.assert_allclose(haar, [1 / width] * 6 + [2 / width])
    # Uncentred, the mean that both share is all there is at these shares of the energy.
    raw, _ = overlaps(*(leading(sums, sums.members(n), SHARES, centred=False) for n in range(2)), width)
    assert raw.min() > 0.99


class PlantedLab(Memo):
    """A lab that answers ``grouped`` with states of known geometry: ``make(set, generator, count)`` (prompts, width)."""

    def __init__(self, make: Callable[[str, np.random.Generator, int], Array], count: int = 200) -> None:
        super().__init__()
        self.layers, self._make, self.request_settings = LAYERS, make, RequestSettings(count)

    def common_beginning(self, sets: Any, rendering: str) -> int:
        return 3

    def encoded_requests(self, name: str, rendering: str) -> list[Any]:
        return [SimpleNamespace(truncated=False)]

    @remembered
    def grouped(self, name: str, rendering: str, poolings: Any, needed: Any, groups: int) -> Grouped:
        drawn = self.request_settings.load(name)
        states = self._make(name, np.random.default_rng(sum(name.encode())), len(drawn)).astype(np.float32)
        codes = deal_topics(drawn.topics, len(drawn), groups)
        parts = [np.repeat(states[codes == number][:, None], LAYERS, axis=1) for number in range(codes.max() + 1)]
        return Grouped(dict.fromkeys(poolings, parts), tuple(range(LAYERS)), len(drawn))


WIDTH = 64
ENERGIES = np.sqrt(0.75 ** np.arange(12))


def planted(shared: dict[str, float], offset: float = 0.0) -> PlantedLab:
    """Sets whose leading directions meet the common ones at the given cosines; the rest differs from set to set."""
    basis = np.linalg.qr(np.random.default_rng(9).normal(size=(WIDTH, WIDTH)))[0]
    own = {name: slice(12 * (1 + place), 12 * (2 + place)) for place, name in enumerate([*SETS, REFUSAL_STYLE])}

    def make(name: str, generator: np.random.Generator, count: int) -> Array:
        c = shared[name]
        directions = c * basis[:, :12] + np.sqrt(1 - c**2) * basis[:, own[name]]
        states = (generator.normal(size=(count, 12)) * ENERGIES) @ directions.T
        return states + 0.05 * generator.normal(size=(count, WIDTH)) + offset

    return PlantedLab(make)


ALIKE = {USEFUL: 0.0, HARMFUL: 0.95, OTHER_HARMFUL: 0.95, REFUSAL_STYLE: 0.95}


def test_planted_sets_are_told_apart() -> None:
    lab = planted(ALIKE)
    alike = measure(ABOVE, lab, "harmful-harmful")
    apart = measure(ABOVE, lab, "useful-harmful")
    assert verdict(ABOVE, alike) is ClaimVerdict.HOLDS
    assert verdict(ABOVE, apart) is not ClaimVerdict.HOLDS
    for estimate in (alike, apart):
        assert estimate.value == pytest.approx((estimate.details["overlap"] or 0) - (estimate.details["haar"] or 0))
        assert estimate.profile == pytest.approx([estimate.value] * LAYERS)
        assert estimate.units is not None
        assert len(estimate.units.values) == estimate.n == 20
    details = {key: value or 0.0 for key, value in alike.details.items()}
    # The pair lies between its floor and what halves of one set, as large as halves of the pair, have in common.
    assert details["floor"] < details["halves_of_the_pair"] < details["ceiling"]
    assert details["floor"] < details["overlap"]
    assert details["haar"] < details["floor"]
    assert details["groups_harmful-a"] == 10
    assert alike.curves["overlap"].y[-1] == pytest.approx(0.95**4, abs=0.1)

    higher = measure(NOT_HIGHER, lab)
    assert verdict(NOT_HIGHER, higher) is ClaimVerdict.FAILS
    assert higher.n == 30
    assert higher.value == pytest.approx(
        details["overlap"] - ((apart.details["overlap"] or 0) + (higher.details["overlap_maths_harmful-b"] or 0)) / 2
    )
    assert higher.null is not None
    assert higher.null.low < 0 < higher.null.high < (higher.value or 0)
    assert (
        verdict("activations.early_tokens", measure("activations.early_tokens", lab, "first-5")) is ClaimVerdict.FAILS
    )
    counterpart = measure(COUNTERPART, lab)
    assert verdict(COUNTERPART, counterpart) is ClaimVerdict.INCONCLUSIVE
    assert abs(counterpart.value or 0) < 0.2


def test_a_useful_set_that_overlaps_more_makes_the_claim_hold() -> None:
    lab = planted({USEFUL: 1.0, HARMFUL: 0.8, OTHER_HARMFUL: 0.8, REFUSAL_STYLE: 0.0})
    assert verdict(NOT_HIGHER, measure(NOT_HIGHER, lab)) is ClaimVerdict.HOLDS
    assert verdict(COUNTERPART, measure(COUNTERPART, lab)) is ClaimVerdict.FAILS


def test_a_constant_added_changes_the_uncentred_value_alone() -> None:
    plain, moved = planted(ALIKE), planted(ALIKE, offset=20.0)
    for claim, case in (
        (ABOVE, "useful-harmful"),
        (NOT_HIGHER, ""),
    ):
        before, after = (measure(claim, lab, case) for lab in (plain, moved))
        assert after.value == pytest.approx(before.value, abs=1e-4)
        assert after.units is not None
        assert before.units is not None
        assert after.units.ids == before.units.ids
        assert after.units.values == pytest.approx(before.units.values, abs=1e-3)
    published = measure(ABOVE, moved, "useful-harmful", "published")
    assert (published.value or 0) > 0.9  # of sets that share nothing but that constant
    assert (measure(ABOVE, plain, "useful-harmful", "published").value or 0) < 0.2


def test_sets_without_structure_overlap_as_chance_does() -> None:
    lab = PlantedLab(lambda name, generator, count: 3 + generator.normal(size=(count, WIDTH)))
    for case in ("useful-harmful", "harmful-harmful"):
        estimate = measure(ABOVE, lab, case)
        assert verdict(ABOVE, estimate) is not ClaimVerdict.HOLDS
        assert abs(estimate.value or 0) < 0.1
    difference = measure(NOT_HIGHER, lab)
    assert verdict(NOT_HIGHER, difference) is not ClaimVerdict.FAILS
    assert difference.null is not None
    assert 0 < difference.null.percentile < 100


def test_window_of_the_source() -> None:
    assert [window(layers) for layers in (1, 2, 6, 8, 32)] == [
        range(0, 1), range(0, 1), range(3, 5), range(4, 7), range(20, 28),
    ]  # fmt: skip
    for layers in range(1, 200):
        blocks = window(layers)
        assert 0 <= blocks[0] <= blocks[-1] < layers


# Sets that do not do


def test_too_few_prompts_or_topics_are_told() -> None:
    lab = planted(ALIKE)
    lab.request_settings = RequestSettings(6)
    with pytest.raises(
        NotApplicableError, match=r"subspaces of maths need at least 8 requests of 4 topics, but .* 6 of"
    ):
        measure(ABOVE, lab, "useful-harmful")

    class OneTopic(RequestSettings):
        def load(self, role: str) -> RequestSet:
            drawn = super().load(role)
            return replace(drawn, requests=tuple(replace(request, topic="one") for request in drawn.requests))

    lab.request_settings = OneTopic(20)
    with pytest.raises(NotApplicableError, match="there are 20 of 1; draw more requests, or take a set of more topics"):
        measure(NOT_HIGHER, lab)


def test_constant_activations_are_told() -> None:
    rounding = 1e-7
    lab = PlantedLab(
        lambda name, generator, count: 7.3 * (np.ones(WIDTH) + rounding * generator.normal(size=(count, 1)))
    )
    with pytest.raises(GeometryBenchError, match="the same for all its prompts"):
        measure(ABOVE, lab, "useful-harmful")
    with pytest.raises(GeometryBenchError, match="at least one group"):
        group_sums([[], []])


# Real models


def in_memory(lab: Lab, names: Sequence[str], pooling: Any, variant: Variant) -> float:
    """MSO of two sets, mean over window and shares, from all their states at once."""
    rendering = claims.RENDERING[variant]
    states = [lab.requests(name, rendering=rendering, poolings=(pooling,)).states[pooling] for name in names]
    return float(
        np.mean([
            overlaps_by_svd(*(own[:, block] for own in states), centred=variant == "corrected")[2]
            for block in window(lab.layers)
        ])
    )  # fmt: skip


NARROW = SMALL | {"hidden_size": 8}


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of width 8: a group of more than 16 prompts takes less room as second moments."""
    return tiny_model("llama", tmp_path_factory.mktemp("narrow"), max_position_embeddings=1024, **NARROW)


@pytest.mark.parametrize("count", [40, 165], ids=["held", "streamed"])
def test_sets_held_and_sets_streamed_give_what_is_in_memory(count: int, narrow: Path) -> None:
    lab = lab_of(narrow, count)
    grouped = [claims.grouped(lab, name, "corrected").parts[MEAN_KEPT] for name in SETS]
    kinds = {isinstance(part, Moments) for parts in grouped for part in parts}
    assert kinds == ({False} if count == 40 else {False, True})  # topics are not drawn evenly
    for pooling, variant in (
        (LAST, "published"),
        (MEAN_KEPT, "corrected"),
        (claims.early(lab, "corrected"), "corrected"),
    ):
        found = claims.Trio(lab, SETS, pooling, variant).overlaps()
        for pair, names in enumerate([(USEFUL, HARMFUL), (USEFUL, OTHER_HARMFUL), (HARMFUL, OTHER_HARMFUL)]):
            expected = in_memory(lab, names, pooling, variant)
            assert found.mean(found.overlap)[pair] == pytest.approx(expected, abs=1e-5)


def test_what_does_not_fit_is_kept_for_the_window_in_fewer_groups(
    narrow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = measure(ABOVE, lab_of(narrow, 165), "harmful-harmful").value
    monkeypatch.setattr(lab_module, "GROUPED_AT_MOST", 0)
    lab = lab_of(narrow, 165)
    small = claims.grouped(lab, HARMFUL, "corrected")
    assert small.blocks == tuple(window(2)) == (0,)
    assert small.groups == 4
    again = measure(ABOVE, lab, "harmful-harmful")
    assert again.value == pytest.approx(value, abs=1e-5)
    assert again.profile == [pytest.approx(value, abs=1e-5), None]
    assert again.details["groups_harmful-a"] == 4
    assert again.n == 8


@pytest.mark.parametrize("model", ["random", "zoo/neox-d64/aligned"])
def test_one_model_from_end_to_end(model: str, tmp_path: Path) -> None:
    where = tiny_model("llama", tmp_path, max_position_embeddings=1024, **SMALL) if model == "random" else model
    lab, alone = lab_of(where, 30), lab_of(where, 30, batch_size=1)
    prompts = [list(prompt.ids) for name in SETS for prompt in lab.encoded_requests(name, "chat")]
    beginning = lab.common_beginning(SETS, "chat")
    assert beginning == next(i for i, column in enumerate(zip(*prompts, strict=False)) if len(set(column)) > 1)
    assert beginning >= 2
    for claim in ACTIVATION_CLAIMS:
        for case in claim.cases:
            found, other = claim.measure(lab, case), claim.measure(alone, case)
            assert set(found) == {"published", "corrected"}
            for variant, estimate in found.items():
                assert None not in (estimate.value, estimate.low, estimate.high, estimate.null)
                assert None not in (estimate.profile or [None])
                assert len(estimate.profile or []) == lab.layers
                assert other[variant].value == pytest.approx(estimate.value, abs=1e-4), (claim.id, case.key, variant)
    assert measure("activations.early_tokens", lab, "first-5").details["first_position"] == beginning
    first = ACTIVATION_CLAIMS[0]
    inputs = prompt_inputs(lab, first.requires, first.published_requires)
    assert inputs.pooling == "corrected mean+no_bos+no_sinks, published text last"
    assert [one.name for one in inputs.requests] == list(SETS)
    assert inputs.template_hash is not None


def test_a_prompt_that_is_all_beginning_keeps_its_last_token(tmp_path: Path) -> None:
    lab = lab_of(tiny_model("llama", tmp_path, **SMALL), 4)
    encoded = {"a": [(1, 4, 9), (1, 4, 9, 5)], "b": [(1, 4, 9, 7)]}
    lab.encoded_requests = lambda name, rendering: [SimpleNamespace(ids=ids) for ids in encoded[name]]  # type: ignore[method-assign,assignment,misc]
    assert lab.common_beginning(("a", "b"), "chat") == 2
    assert lab.common_beginning(("b",), "chat") == 3
