"""Write docs/findings.md from the stored baselines: ``python docs/findings.py``.

Every claim, on the zoo's aligned members and on the real models whose baselines are stored, beside what its source reports.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

from geometry_bench.claims.model import Claim
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.judging import judge_run
from geometry_bench.prompts.roles import RequestSettings, times
from geometry_bench.records.baselines import BaselineStore
from geometry_bench.records.facts import GroupFacts, ModelFacts, PanelFacts, PromptInputs
from geometry_bench.records.judgement import ClaimVerdict, Judgement
from geometry_bench.report.board import published_rows
from geometry_bench.resources import data_root

PAGE = Path(__file__).resolve().parent / "findings.md"
HEAD = """# Findings

What was found on the zoo's aligned members and on real models, claim by claim, beside what the sources report. Written by
`docs/findings.py` from the stored baselines, so every number here is one that `geometry-bench baseline show` prints with
its interval and null.

Values are `value ± error`, then H (holds), F (fails), i (cannot be told), as [read-a-verdict.md](read-a-verdict.md)
explains; – does not apply there. A claim that fails is a finding. The zoo's models are tiny and read in their own language;
nothing here says what a model of another size does.
"""
LETTERS = {ClaimVerdict.HOLDS: "H", ClaimVerdict.FAILS: "F", ClaimVerdict.INCONCLUSIVE: "i"}
WORDS = {
    ClaimVerdict.HOLDS: "holds",
    ClaimVerdict.FAILS: "fails",
    ClaimVerdict.INCONCLUSIVE: "cannot be told",
    ClaimVerdict.NOT_APPLICABLE: "does not apply",
}


def judgements() -> list[Judgement]:
    """Everything stored in the repository, judged."""
    store = BaselineStore((data_root() / "baselines" / "measured",))
    return judge_run(one for found in store.all() for one in found.baseline.measurements())


def shown(one: Judgement) -> bool:
    """Whether a subject is on the page: aligned members, groups of them, real models, and what is about several models."""
    facts = one.measurement.subject
    if isinstance(facts, ModelFacts):
        return facts.family is None or facts.role == "aligned"
    return not (isinstance(facts, GroupFacts) and "base" in facts.id)


def page(judged: Iterable[Judgement]) -> str:
    """The page."""
    by_claim: dict[str, list[Judgement]] = {}
    for one in judged:
        if shown(one) and not one.measurement.claim.startswith("audit."):
            by_claim.setdefault(one.measurement.claim, []).append(one)
    sections: dict[str, list[str]] = {}
    for claim in CLAIMS.values():
        if claim.id in by_claim:
            sections.setdefault(claim.source.citation, []).append(_section(claim, by_claim[claim.id]))
    by_source = (f"## {source}\n\n" + "\n".join(parts) for source, parts in sections.items())
    return "\n".join([HEAD, _glance(by_claim), *by_source])


def _kind(one: Judgement) -> str:
    facts = one.measurement.subject
    if not isinstance(facts, ModelFacts):
        return "pairs, groups, families, panels"
    return facts.id if facts.family is None else "the zoo's aligned members"


def _glance(by_claim: Mapping[str, Sequence[Judgement]]) -> str:
    """How often each claim holds, fails and cannot be told, by kind of subject."""
    everything = [one for judged in by_claim.values() for one in judged]
    kinds = sorted({_kind(one) for one in everything}, key=lambda kind: ("/" not in kind, kind))
    counts = Counter((one.measurement.claim, _kind(one), LETTERS.get(one.claim.verdict, "–")) for one in everything)

    def cell(claim: str, kind: str) -> str:
        found = ((letter, counts[claim, kind, letter]) for letter in (*LETTERS.values(), "–"))
        return ", ".join(f"{count} {letter}" for letter, count in found if count)

    rows = [
        [f"[{claim}](#{claim.replace('.', '')})", *(cell(claim, kind) for kind in kinds)]
        for claim in CLAIMS
        if claim in by_claim
    ]
    return f"## At a glance\n\n{tabulate(rows, ['claim', *kinds], 'pipe', disable_numparse=True)}\n"


def _section(claim: Claim, judged: Sequence[Judgement]) -> str:
    counts = Counter(WORDS[one.claim.verdict] for one in judged)
    found = ", ".join(f"{word} in {count}" for word, count in counts.most_common())
    cases = dict.fromkeys(one.measurement.case for one in judged)
    subjects = dict.fromkeys(_name(one) for one in judged)
    cells = {(_name(one), one.measurement.case): _cell(one) for one in judged}
    # The longer side runs downwards.
    if len(cases) > len(subjects):
        header = ["case", *subjects]
        rows = [[case or claim.id, *(cells.get((name, case), "") for name in subjects)] for case in cases]
    else:
        header = ["subject", *(case or "value" for case in cases)]
        rows = [[name, *(cells.get((name, case), "") for case in cases)] for name in subjects]
    table = "\n\n".join([tabulate(rows, header, "pipe", disable_numparse=True), *_read_otherwise(judged)])
    return (
        f"### {claim.id}\n\n{claim.statement}\n\n{_source(claim)}Here it {found} of {len(judged)} cases.\n\n{table}\n"
    )


def _read_otherwise(judged: Iterable[Judgement]) -> list[str]:
    """Which real models read other requests than a run takes by default: a file's, or more of the built-in ones."""
    found: dict[str, list[str]] = {}
    for one in judged:
        facts, inputs = one.measurement.subject, one.measurement.inputs
        if isinstance(facts, ModelFacts) and facts.family is None and isinstance(inputs, PromptInputs):
            for read in inputs.requests:
                if read.origin != "pack" or read.count > RequestSettings().count * times(read.name):
                    found.setdefault(facts.id, []).append(f"{read.count} of `{read.name}`")
    return [
        f"{name} read other requests than by default: {', '.join(dict.fromkeys(sets))}." for name, sets in found.items()
    ]


def _name(one: Judgement) -> str:
    facts = one.measurement.subject
    return f"panel of {len(facts.members)} models" if isinstance(facts, PanelFacts) else facts.id


def _cell(one: Judgement) -> str:
    estimate = one.measurement.estimate
    if estimate is None or estimate.value is None:
        return "–"
    error = "" if estimate.error is None else f" ± {estimate.error:.2f}"
    return f"{estimate.value:+.2f}{error} {LETTERS.get(one.claim.verdict, '')}".rstrip()


def _source(claim: Claim) -> str:
    rows = published_rows(claim)
    values = [cell.value for row in rows for cell in row.cells.values() if cell.value is not None]
    if not values:
        return ""
    ends = dict.fromkeys(f"{end:+.2f}" for end in (min(values), max(values)))
    return f"The source reports {' to '.join(ends)} on {'one subject' if len(rows) == 1 else f'{len(rows)} subjects'}. "


if __name__ == "__main__":
    PAGE.write_text(page(judgements()), encoding="utf-8")
