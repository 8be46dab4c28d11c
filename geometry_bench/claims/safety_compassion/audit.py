"""Statements of source A that take a check of their own; the others declare theirs in the published file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from geometry_bench.claims.checks import Observation, listing
from geometry_bench.errors import GeometryBenchError
from geometry_bench.published.publication import Publication
from geometry_bench.published.tables import agrees


def _suffering_messages(stated: Mapping[str, Any], publication: Publication) -> Observation:
    used = publication.protocol["suffering_messages"]
    return Observation(
        {"count": len(used["ids"]), "ids": used["ids"]},
        len(used["ids"]) == stated["count"],
        f"The text says {stated['count']}; the run used {len(used['ids'])} ({', '.join(used['ids'])}): {used['where']}.",
    )


def _analysis_layers(stated: Mapping[str, Any], publication: Publication) -> Observation:
    off, seen = [], []
    for subject in publication.subjects.values():
        # Python rounds halves to even, as the source's scripts do.
        expected = list(range(round(stated["numerator"] * subject.layers / stated["denominator"]), subject.layers))
        seen.append(f"L={subject.layers}: {expected[0]}–{expected[-1]}")
        cosines = [curve for name, curve in subject.curves.items() if "|" in name]
        if any(list(curve) != expected for curve in cosines):
            off.append(subject.label)
    return Observation(
        {"models_off_the_rule": off},
        not off,
        f"The rule gives {', '.join(dict.fromkeys(seen))}; the result files hold "
        + (f"other blocks for {listing(off)}." if off else "exactly these blocks for every model and pair."),
    )


def _association(stated: Mapping[str, Any], publication: Publication) -> Observation:
    r, p = _correlation(publication, 0)
    return Observation(
        {"r": r, "p": p},
        agrees(stated["r"], r),
        f"r = {r:.4f} over {len(publication.subjects)} models at the final block (exact permutation p = {p:.3f}); "
        f"stated {stated['r']:.2f}.",
    )


def _association_earlier(stated: Mapping[str, Any], publication: Publication) -> Observation:
    back = stated["blocks_before_last"]
    (r, p), (final_r, final_p) = _correlation(publication, back), _correlation(publication, 0)
    return Observation(
        {"r": r, "p": p, "r_final_block": final_r, "p_final_block": final_p, "block": f"L-{back + 1}"},
        r > 0 and p < stated["significance"],
        f"r = {final_r:.2f} at the final block (L-1) becomes r = {r:.2f} at L-{back + 1} (exact permutation p "
        f"{final_p:.3f} and {p:.3f}, level {stated['significance']:g}).",
    )


def _correlation(publication: Publication, back: int) -> tuple[float, float]:
    """Pearson's r of safety↔compassion with safety↔baseline over the models, so many blocks before the final one, and its
    two-sided p over all permutations of the models.
    """
    x, y = (
        np.array([s.points(f"benign/safety|{axis}")[s.final_block - back] for s in publication.subjects.values()])
        for axis in ("chenrezig", "empty")
    )
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        raise GeometryBenchError("A correlation over models needs values that differ; all of them are equal here.")
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    test = stats.permutation_test(
        (x,),
        lambda shuffled, axis: np.abs(shuffled @ y) / scale,
        permutation_type="pairings",
        alternative="greater",
        vectorized=True,
        n_resamples=np.inf,
    )
    return float(x @ y) / scale, float(test.pvalue)


FUNCTIONS = {
    "setup.suffering_messages": _suffering_messages,
    "setup.analysis_layers": _analysis_layers,
    "safety.association_final_block": _association,
    "safety.association_is_of_the_model": _association_earlier,
}
