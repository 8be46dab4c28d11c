"""Audit of source A: its sentences and tables against its own result files.

The sentences, their places and their figures stand in ``baselines/published/safety_compassion.json``; each has its
check here, by the same id. All figures are taken at the final block unless a sentence says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import pairwise, permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geometry_bench.claims.audit import Check, Checks, Finding, Observation, Statement
from geometry_bench.errors import GeometryBenchError
from geometry_bench.published.schema import (
    TRADITIONS,
    MessageSet,
    Pair,
    Published,
    PublishedSubject,
    agrees,
    load_published,
    tradition_pairs,
)

SOURCE = "safety_compassion"

SAFETY_COMPASSION = Pair(message_set="benign", a="safety", b="chenrezig")
SAFETY_BASELINE = Pair(message_set="benign", a="safety", b="empty")
SAFETY_STRICT = Pair(message_set="benign", a="safety", b="safety_strict")

Stated = Mapping[str, Any]
_check: Checks[Published] = Checks()


def statements(published: Published) -> tuple[Statement, ...]:
    """The audited sentences in the file's order."""
    return _check.statements(published)


def audit(published: Published | None = None) -> list[Finding]:
    """Check every sentence of source A, against ``published`` or against the stored figures."""
    return _check.audit(load_published(SOURCE) if published is None else published)


# -- the procedure ----------------------------------------------------------------------------------------------------


@_check("setup.suffering_messages")
def _suffering_messages(stated: Stated, published: Published) -> Observation:
    used = published.protocol.suffering_messages
    return Observation(
        {"count": len(used.ids), "ids": list(used.ids)},
        len(used.ids) == stated["count"],
        f"The text says {stated['count']}; the run used {len(used.ids)} ({', '.join(used.ids)}): {used.where}.",
    )


@_check("setup.analysis_layers")
def _analysis_layers(stated: Stated, published: Published) -> Observation:
    off, seen = [], []
    for subject in published.subjects.values():
        # Python rounds halves to even, as the source's scripts do.
        expected = list(range(round(stated["numerator"] * subject.layers / stated["denominator"]), subject.layers))
        seen.append(f"L={subject.layers}: {expected[0]}–{expected[-1]}")
        held = [sorted(profile) for by_pair in subject.cosines.values() for profile in by_pair.values()]
        if any(blocks != expected for blocks in held):
            off.append(subject.label)
    rule = ", ".join(dict.fromkeys(seen))
    return Observation(
        {"models_off_the_rule": off},
        not off,
        f"The rule gives {rule}; the result files hold "
        + (f"other blocks for {_listing(off)}." if off else "exactly these blocks for every model and pair."),
    )


# -- printed tables ---------------------------------------------------------------------------------------------------


def _table(stated: Stated, published: Published) -> Observation:
    table = published.printed.tables[stated["table"]]
    cells = 0
    off: list[dict[str, Any]] = []
    for row in table.rows:
        subject = published.subjects[row.subject]
        for pair, printed in zip(table.columns, row.values, strict=True):
            cells += 1
            value = _at(subject, pair)
            if not agrees(printed, value):
                off.append({"subject": subject.label, "pair": pair.name, "printed": printed, "data": value})
    said = "; ".join(
        f"{cell['subject']} {cell['pair']} is printed {cell['printed']:+.2f}, the data give {cell['data']:+.4f}"
        for cell in off
    )
    return Observation(
        {"cells": cells, "off": off},
        not off,
        f"{len(off)} of {cells} cells differ: {said}." if off else f"All {cells} cells are the rounded data.",
    )


_check("table.safety")(_table)
_check("table.traditions")(_table)
_check("table.finetune")(_table)


@_check("table.sorted_by_baseline")
def _sorted_table(stated: Stated, published: Published) -> Observation:
    cells = _table(stated, published)
    table = published.printed.tables[stated["table"]]
    # Rows printed with one value are a tie: their order among themselves says nothing.
    rows = [(row.values[0], _at(published.subjects[row.subject], table.columns[0])) for row in table.rows]
    ordered = all(
        earlier[1] >= later[1] for i, earlier in enumerate(rows) for later in rows[i + 1 :] if earlier[0] > later[0]
    )
    order = "The order is that of the data" if ordered else "The order is not that of the data"
    return Observation(
        {**cells.found, "order_holds": ordered}, cells.consistent and ordered, f"{order}. {cells.explanation}"
    )


# -- safety -----------------------------------------------------------------------------------------------------------


def _safety_range(pair: Pair) -> Check[Published]:
    def check(stated: Stated, published: Published) -> Observation:
        return _range(stated, {s.label: _at(s, pair) for s in published.subjects.values()})

    return check


_check("safety.compassion_range")(_safety_range(SAFETY_COMPASSION))
_check("safety.strict_range")(_safety_range(SAFETY_STRICT))


@_check("safety.nonnegative_group")
def _nonnegative_group(stated: Stated, published: Published) -> Observation:
    named = set(stated["subjects"])
    ranked = _ranked(published, SAFETY_COMPASSION)
    nonnegative = {key for key, s in published.subjects.items() if _at(s, SAFETY_BASELINE) >= 0}
    preference = _preference(published, named)
    values = {published.subjects[key].label: _at(published.subjects[key], SAFETY_COMPASSION) for key in named}
    spread = _range(stated, values)
    consistent = named == nonnegative == set(ranked[: len(named)]) and not preference and spread.consistent
    return Observation(
        {
            "nonnegative": sorted(nonnegative),
            "highest_safety_compassion": ranked[: len(named)],
            "preference_trained": preference,
            "low": spread.found["low"],
            "high": spread.found["high"],
        },
        consistent,
        f"Not below zero on safety↔baseline: {_labels(published, nonnegative)}; highest on safety↔compassion: "
        f"{_labels(published, ranked[: len(named)])}; of those named, {len(preference)} trained by DPO or RLHF; "
        f"their safety↔compassion runs from {spread.found['low']:.4f} to {spread.found['high']:.4f}.",
    )


@_check("safety.negative_group")
def _negative_group(stated: Stated, published: Published) -> Observation:
    named = set(stated["subjects"])
    lowest = _ranked(published, SAFETY_COMPASSION)[-len(named) :]
    signs = {published.subjects[key].label: _at(published.subjects[key], SAFETY_BASELINE) for key in named}
    preference = _preference(published, named)
    spread = _range(
        stated, {published.subjects[key].label: _at(published.subjects[key], SAFETY_COMPASSION) for key in named}
    )
    consistent = (
        all(value < 0 for value in signs.values())
        and named == set(lowest)
        and set(preference) == named
        and spread.consistent
    )
    return Observation(
        {"safety_baseline": signs, "lowest_safety_compassion": lowest, "preference_trained": preference},
        consistent,
        "Safety↔baseline: "
        + ", ".join(f"{label} {value:+.4f}" for label, value in sorted(signs.items()))
        + f"; lowest on safety↔compassion: {_labels(published, lowest)}; trained by DPO or RLHF: "
        f"{len(preference)} of {len(named)}.",
    )


@_check("safety.mistral_between")
def _between(stated: Stated, published: Published) -> Observation:
    value = _at(published.subjects[stated["subject"]], SAFETY_BASELINE)
    floor = max(_at(published.subjects[key], SAFETY_BASELINE) for key in stated["above"])
    ceiling = min(_at(published.subjects[key], SAFETY_BASELINE) for key in stated["below"])
    label = published.subjects[stated["subject"]].label
    return Observation(
        {"value": value, "highest_below": floor, "lowest_above": ceiling},
        floor < value < ceiling,
        f"{label} has {value:+.4f}; the lower group ends at {floor:+.4f}, the upper begins at {ceiling:+.4f}.",
    )


@_check("safety.ke_most_negative")
def _most_negative(stated: Stated, published: Published) -> Observation:
    tuned, parent = published.subjects[stated["subject"]], published.subjects[stated["parent"]]
    lowest = _ranked(published, SAFETY_BASELINE)[-1]
    mine, theirs = _at(tuned, SAFETY_COMPASSION), _at(parent, SAFETY_COMPASSION)
    return Observation(
        {"most_negative": lowest, "safety_compassion": mine, "parent_safety_compassion": theirs},
        lowest == tuned.key and mine > theirs,
        f"Most negative on safety↔baseline: {published.subjects[lowest].label} "
        f"({_at(published.subjects[lowest], SAFETY_BASELINE):+.4f}); safety↔compassion {mine:.4f} in {tuned.label}, "
        f"{theirs:.4f} in {parent.label}.",
    )


@_check("safety.association_final_block")
def _association(stated: Stated, published: Published) -> Observation:
    r, p = _correlation(published, 0)
    return Observation(
        {"r": r, "p": p},
        agrees(stated["r"], r),
        f"r = {r:.4f} over {len(published.subjects)} models at the final block (exact permutation p = {p:.3f}); "
        f"stated {stated['r']:.2f}.",
    )


@_check("safety.association_is_of_the_model")
def _association_earlier(stated: Stated, published: Published) -> Observation:
    back = stated["blocks_before_last"]
    r, p = _correlation(published, back)
    final_r, final_p = _correlation(published, 0)
    return Observation(
        {"r": r, "p": p, "r_final_block": final_r, "p_final_block": final_p, "block": f"L-{back + 1}"},
        r > 0 and p < stated["significance"],
        f"r = {final_r:.2f} at the final block (L-1) becomes r = {r:.2f} at L-{back + 1} (exact permutation p "
        f"{final_p:.3f} and {p:.3f}, level {stated['significance']:g}).",
    )


# -- compassion -------------------------------------------------------------------------------------------------------


@_check("compassion.all_positive")
def _all_positive(stated: Stated, published: Published) -> Observation:
    values = _tradition_values(published)
    name, lowest = min(values.items(), key=lambda item: item[1])
    positive = sum(value > 0 for value in values.values())
    return Observation(
        {"count": len(values), "positive": positive, "lowest": lowest},
        positive == len(values) == stated["count"],
        f"{positive} of {len(values)} are positive; the lowest is {lowest:.4f} ({name}).",
    )


@_check("compassion.range")
def _tradition_range(stated: Stated, published: Published) -> Observation:
    return _range(stated, _tradition_values(published))


def _pair_is_tightest(stated: Stated, published: Published) -> tuple[list[PublishedSubject], list[str]]:
    """Subjects where the stated pair is the closest, and a phrase for each where another pair is."""
    holds, exceptions = [], []
    for key in stated["subjects"]:
        subject = published.subjects[key]
        mine = _at(subject, _pair(stated["pair"]))
        best = _tradition_ranking(subject)[0]
        if _is(best, stated["pair"]):
            holds.append(subject)
        else:
            exceptions.append(f"{subject.label} ({best.name} {_at(subject, best):.4f} against {mine:.4f})")
    return holds, exceptions


def _pair_observation(stated: Stated, published: Published, needed: Callable[[int, int], bool]) -> Observation:
    holds, exceptions = _pair_is_tightest(stated, published)
    total = len(stated["subjects"])
    tail = f"; not in {_listing(exceptions)}" if exceptions else ""
    return Observation(
        {"holds": [s.key for s in holds], "exceptions": exceptions},
        needed(len(holds), total),
        f"{_pair(stated['pair']).name} is the closest pair in {len(holds)} of {total}{tail}.",
    )


@_check("compassion.buddhist_pair_most")
def _pair_most(stated: Stated, published: Published) -> Observation:
    return _pair_observation(stated, published, lambda holds, total: 2 * holds > total)


@_check("compassion.buddhist_pair_rule")
def _pair_rule(stated: Stated, published: Published) -> Observation:
    return _pair_observation(stated, published, lambda holds, total: holds == total)


@_check("compassion.deepseek_tightest")
def _tightest(stated: Stated, published: Published) -> Observation:
    subject = published.subjects[stated["subject"]]
    first, second = _tradition_ranking(subject)[:2]
    value = _at(subject, _pair(stated["pair"]))
    return Observation(
        {"tightest": first.name, "value": value},
        _is(first, stated["pair"]) and agrees(stated["value"], value),
        f"Closest in {subject.label}: {first.name} at {_at(subject, first):.4f}, then {second.name} at "
        f"{_at(subject, second):.4f}; stated {stated['value']:.2f}.",
    )


@_check("compassion.phi4_both")
def _both(stated: Stated, published: Published) -> Observation:
    subject = published.subjects[stated["subject"]]
    pairs = [_pair(names) for names in stated["pairs"]]
    values = {pair.name: _at(subject, pair) for pair in pairs}
    ranking = _tradition_ranking(subject)
    highest = {pair.name for pair in ranking[: len(pairs)]}
    stated_highest = all(any(_is(best, [p.a, p.b]) for best in ranking[: len(pairs)]) for p in pairs)
    off = [name for name, value in values.items() if not agrees(stated["value"], value)]
    said = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
    return Observation(
        {"values": values, "off": off, "highest": sorted(highest)},
        stated_highest and not off,
        f"{said}, {'the' if stated_highest else 'not the'} {len(pairs)} highest; "
        + (f"{_listing(off)} does not round to {stated['value']:.2f}." if off else f"all round to {stated['value']}."),
    )


@_check("compassion.yi_highest")
def _highest(stated: Stated, published: Published) -> Observation:
    subject = published.subjects[stated["subject"]]
    value = _at(subject, _pair(stated["pair"]))
    name, highest = max(_tradition_values(published).items(), key=lambda item: item[1])
    return Observation(
        {"value": value, "highest": highest, "highest_name": name},
        value == highest and agrees(stated["value"], value),
        f"The highest is {highest:.4f} ({name}); {subject.label} has {value:.4f}, stated {stated['value']:.2f}.",
    )


# -- the fine-tune ----------------------------------------------------------------------------------------------------


@_check("finetune.deltas")
def _deltas(stated: Stated, published: Published) -> Observation:
    tuned, parent = published.subjects[stated["subject"]], published.subjects[stated["parent"]]
    found: dict[str, float] = {}
    off: list[str] = []
    for item in stated["deltas"]:
        pair = Pair(message_set=item["message_set"], a=item["a"], b=item["b"])
        found[pair.name] = _at(tuned, pair) - _at(parent, pair)
        if not agrees(item["value"], found[pair.name]):
            off.append(f"{pair.name} stated {item['value']:+.2f}, data {found[pair.name]:+.4f}")
    return Observation(
        {"deltas": found, "off": off},
        not off,
        f"{len(off)} of {len(found)} differ from the data: {_listing(off)}."
        if off
        else f"All {len(found)} changes are the rounded differences of the data.",
    )


@_check("finetune.all_pairs_increased")
def _all_increased(stated: Stated, published: Published) -> Observation:
    tuned, parent = published.subjects[stated["subject"]], published.subjects[stated["parent"]]
    change = {pair.name: _at(tuned, pair) - _at(parent, pair) for pair in tradition_pairs()}
    fell = [f"{name} {value:+.4f}" for name, value in change.items() if value <= 0]
    return Observation(
        {"changes": change},
        not fell,
        f"{len(change) - len(fell)} of {len(change)} rose"
        + (f"; not {_listing(fell)}." if fell else f", by {min(change.values()):+.4f} at least."),
    )


@_check("finetune.secular_gap")
def _secular_gap(stated: Stated, published: Published) -> Observation:
    tuned, parent = (_gap(published.subjects[stated[name]]) for name in ("subject", "parent"))
    return Observation(
        {"gap": tuned, "parent_gap": parent},
        tuned > parent,
        f"Mean contemplative cosine less mean cosine with secular: {parent:.4f} before, {tuned:.4f} after.",
    )


@_check("finetune.safety_shift")
def _safety_shift(stated: Stated, published: Published) -> Observation:
    tuned, parent = published.subjects[stated["subject"]], published.subjects[stated["parent"]]
    toward = _at(tuned, SAFETY_COMPASSION) - _at(parent, SAFETY_COMPASSION)
    against = _at(tuned, SAFETY_BASELINE) - _at(parent, SAFETY_BASELINE)
    return Observation(
        {"safety_compassion": toward, "safety_baseline": against},
        toward > 0 and against < 0,
        f"Safety↔compassion changes by {toward:+.4f}, safety↔baseline by {against:+.4f}.",
    )


# -- the companion experiment on one model ----------------------------------------------------------------------------


@_check("companion.buddhist_range")
def _range_over_blocks(stated: Stated, published: Published) -> Observation:
    subject, pair = published.subjects[stated["subject"]], _pair(stated["pair"])
    profile = _profile(subject, pair.message_set, pair.a, pair.b)
    return _range(stated, {f"block {block}": value for block, value in profile.items()})


@_check("companion.norms_grow")
def _norms_grow(stated: Stated, published: Published) -> Observation:
    subject = published.subjects[stated["subject"]]
    drops: list[str] = []
    for axis in stated["axes"]:
        norms = subject.axis_norm("suffering", axis)
        if norms is None:
            raise GeometryBenchError(f"{subject.key}: no norms of the axis {axis!r} in the published figures.")
        blocks = sorted(norms)
        drops += [f"{axis} from block {a} to {b}" for a, b in pairwise(blocks) if norms[b] < norms[a]]
    return Observation(
        {"drops": drops},
        not drops,
        f"The norm falls for {_listing(drops)}."
        if drops
        else f"None of the {len(stated['axes'])} axes shortens from any block to the next.",
    )


@_check("companion.default_on_one_side")
def _one_side(stated: Stated, published: Published) -> Observation:
    # Which way the source turns this axis does not matter here: on either reading all signs have to be alike.
    subject = published.subjects[stated["subject"]]
    values = {
        (other, block): value
        for other in stated["others"]
        for block, value in _profile(subject, "suffering", stated["axis"], other).items()
    }
    signs = {sign: [key for key, value in values.items() if np.sign(value) == sign] for sign in (1, -1, 0)}
    fewest = [key for sign in sorted(signs, key=lambda s: len(signs[s]))[:-1] for key in signs[sign]]
    said = _listing([f"{other} at block {block} ({values[other, block]:+.4f})" for other, block in fewest])
    return Observation(
        {"cosines": len(values), "on_the_other_side": [list(key) for key in fewest]},
        not fewest,
        f"{len(values) - len(fewest)} of {len(values)} cosines have one sign" + (f"; not {said}." if fewest else "."),
    )


# -- helpers ----------------------------------------------------------------------------------------------------------


def _at(subject: PublishedSubject, pair: Pair, block: int | None = None) -> float:
    value = subject.cosine_at(pair, block)
    if value is None:
        raise GeometryBenchError(
            f"{subject.key}: no cosine {pair.a}|{pair.b} on the {pair.message_set} set at block "
            f"{subject.final_block if block is None else block} in the published figures."
        )
    return value


def _profile(subject: PublishedSubject, message_set: MessageSet, a: str, b: str) -> dict[int, float]:
    profile = subject.cosine(message_set, a, b)
    if profile is None:
        raise GeometryBenchError(f"{subject.key}: no cosine {a}|{b} on the {message_set} set in the published figures.")
    return profile


def _pair(names: Sequence[str]) -> Pair:
    a, b = names
    return Pair(message_set="suffering", a=a, b=b)


def _is(pair: Pair, names: Sequence[str]) -> bool:
    return {pair.a, pair.b} == set(names)


def _listing(parts: Sequence[str]) -> str:
    return ", ".join(parts)


def _labels(published: Published, keys: Sequence[str] | set[str]) -> str:
    ordered = sorted(keys) if isinstance(keys, set) else keys
    return _listing([published.subjects[key].label for key in ordered]) or "none"


def _preference(published: Published, keys: set[str]) -> list[str]:
    return sorted(key for key in keys if published.subjects[key].alignment_group == "preference")


def _ranked(published: Published, pair: Pair) -> list[str]:
    """Keys of the subjects, highest cosine first."""
    return sorted(published.subjects, key=lambda key: -_at(published.subjects[key], pair))


def _tradition_ranking(subject: PublishedSubject) -> list[Pair]:
    """The six tradition pairs, closest first."""
    return sorted(tradition_pairs(), key=lambda pair: -_at(subject, pair))


def _tradition_values(published: Published) -> dict[str, float]:
    return {
        f"{subject.label} {pair.name}": _at(subject, pair)
        for subject in published.subjects.values()
        for pair in tradition_pairs()
    }


def _range(stated: Stated, values: Mapping[str, float]) -> Observation:
    low_name, low = min(values.items(), key=lambda item: item[1])
    high_name, high = max(values.items(), key=lambda item: item[1])
    return Observation(
        {"low": low, "high": high, "count": len(values)},
        agrees(stated["low"], low) and agrees(stated["high"], high),
        f"{len(values)} values run from {low:.4f} ({low_name}) to {high:.4f} ({high_name}); stated "
        f"{stated['low']:.2f} to {stated['high']:.2f}.",
    )


def _gap(subject: PublishedSubject) -> float:
    """Mean cosine among the traditions less their mean cosine with the secular framing."""
    together = np.mean([_at(subject, pair) for pair in tradition_pairs()])
    apart = np.mean([_at(subject, _pair((name, "secular"))) for name in TRADITIONS])
    return float(together - apart)


def _correlation(published: Published, blocks_before_last: int) -> tuple[float, float]:
    """Pearson's r of safety↔compassion with safety↔baseline over the models, and its exact two-sided permutation p.

    All orderings of the models are gone through (40,320 for eight).
    """
    subjects = list(published.subjects.values())
    x, y = (
        np.array([_at(s, pair, s.final_block - blocks_before_last) for s in subjects])
        for pair in (SAFETY_COMPASSION, SAFETY_BASELINE)
    )
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    if scale == 0.0:
        raise GeometryBenchError("A correlation over models needs figures that differ; all of them are equal here.")
    shuffled = y[_orders(len(subjects))] @ x / scale
    r = float(x @ y) / scale
    return r, float(np.mean(np.abs(shuffled) >= abs(r) - 1e-12))


@cache
def _orders(n: int) -> NDArray[np.intp]:
    """All orders of n things, one a row."""
    return np.array(list(permutations(range(n))), dtype=np.intp)
