"""JUnit XML of a run, for CI systems that show it; pytest writes its own."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as xml

from geometry_bench.records.judgement import Judgement
from geometry_bench.report.outcomes import PLAIN, Asked, outcome_of, properties


def junit(judged: Sequence[Judgement], asked: Asked = PLAIN) -> str:
    """One test case for each judgement, named as pytest names it; its numbers are properties."""
    outcomes = [outcome_of(one, asked) for one in judged]
    counts: dict[str, int] = {
        "tests": len(judged),
        "failures": sum(one.kind == "failed" for one in outcomes),
        "skipped": sum(one.kind in ("skipped", "xfailed") for one in outcomes),
        "errors": 0,
    }
    suites = xml.Element("testsuites")
    suite = xml.SubElement(
        suites, "testsuite", {"name": "geometry-bench", **{one: str(n) for one, n in counts.items()}}
    )
    for one, outcome in zip(judged, outcomes, strict=True):
        measurement = one.measurement
        case = xml.SubElement(
            suite,
            "testcase",
            classname=measurement.claim,
            name=f"{measurement.key}@{measurement.subject.id}",
            time=f"{measurement.environment.seconds:.3f}",
        )
        inner = xml.SubElement(case, "properties")
        for name, value in properties(one).items():
            xml.SubElement(inner, "property", name=name, value=value)
        if outcome.kind != "passed":
            kind = "failure" if outcome.kind == "failed" else "skipped"
            xml.SubElement(case, kind, message=outcome.message.partition(": ")[0]).text = outcome.message
    xml.indent(suites)
    return xml.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"
