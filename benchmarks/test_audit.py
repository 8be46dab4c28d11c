"""The publications themselves: sentences of a source, checked against that source's own data. No model is needed.

A contradicted sentence is an expected failure, with the numbers in its reason: it is a finding about the publication, not
about a model.
"""

from collections.abc import Callable

import pytest

from geometry_bench.claims.audit import AUDITED, Finding, audit
from geometry_bench.published.load import load_publication

FINDINGS = [finding for source in AUDITED for finding in audit(load_publication(source))]


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda finding: finding.statement)
def test_statement(finding: Finding, record_property: Callable[[str, object], None]) -> None:
    record_property("verdict", finding.verdict)
    record_property("explanation", finding.explanation)
    if not finding.consistent:
        pytest.xfail(f"contradicted: {finding.explanation}")
