"""A page a comparison: what moved from a parent to its fine-tune, how far, and what that is likely to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from geometry_bench.records.judgement import BaselineVerdict, Judgement
from geometry_bench.report.comparison import Comparison, how_far, rulers
from geometry_bench.report.site.contents import Compared, Contents, Subject
from geometry_bench.report.site.page import Page, drawings
from geometry_bench.report.site.places import COMPARISONS, comparison_page, measurement_place, subject_page
from geometry_bench.report.site.shown import marks, value_text


def pages(contents: Contents) -> Iterator[Page]:
    """The list of comparisons, and a page for each."""
    listed = [(one, _page_of(one)) for one in contents.compared]
    yield Page(COMPARISONS, "comparisons.html", "Comparisons", "comparisons", {"compared": listed})
    for one in contents.compared:
        yield _page(contents, one)


def _subject(one: Compared) -> Subject:
    return one.comparison.judged[0].measurement.whose


def _page_of(one: Compared) -> str:
    return comparison_page(_subject(one), one.against)


def _page(contents: Contents, one: Compared) -> Page:
    comparison = one.comparison
    titles = {
        BaselineVerdict.MOVED: "Moved by more than matters",
        BaselineVerdict.UNDECIDED: "Too few prompts to tell",
        BaselineVerdict.SAME: "The same",
    }
    parents = {id: subject_page(subject) for subject in contents.subjects if (id := subject[0]) == one.against}
    fields = {
        "compared": one,
        "child": subject_page(_subject(one)),
        "parent": parents.get(one.against),
        "tables": [(title, _lines(comparison.of(verdict))) for verdict, title in titles.items()],
        "rulers": rulers(comparison.judged),
        "absent": _reasons(comparison),
        "derived": [
            (found, value_text(found.measurement.estimate), marks(found.claim.verdict), _place(found))
            for found in comparison.derived
            if found.measurement.estimate is not None
        ],
        "drawings": drawings([*comparison.judged, *comparison.derived], "comparison"),
    }
    title = f"{comparison.subject} against {one.against}"
    return Page(_page_of(one), "comparison.html", title, "comparisons", fields)


def _lines(judged: Sequence[Judgement]) -> list[dict[str, object]]:
    return [
        {
            "key": one.measurement.key,
            "place": _place(one),
            "far": how_far(one),
            "decides": one.decides,
            "sentence": one.baseline.sentence,
        }
        for one in judged
    ]


def _place(one: Judgement) -> str:
    return measurement_place(one.measurement.whose, one.measurement.key)


def _reasons(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """Why cases were not compared, with the cases that each reason is about."""
    found: dict[str, list[str]] = {}
    for one in comparison.not_compared:
        found.setdefault(one.baseline.sentence, []).append(one.measurement.key)
    return list(found.items())
