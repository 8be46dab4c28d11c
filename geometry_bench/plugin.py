"""The pytest plugin (entry point ``pytest11``): options, parametrisation, outcomes, summary.

Every pytest run of an environment imports this module, so it imports nothing heavy: torch and transformers come in when the
first case is measured.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from geometry_bench.errors import GeometryBenchError

if TYPE_CHECKING:
    from geometry_bench.claims.model import Case, Claim
    from geometry_bench.records.schema import Record
    from geometry_bench.run.run import Run
    from geometry_bench.subjects.spec import SubjectSpec

RUN = pytest.StashKey["Run"]()
BAD_INPUT = pytest.StashKey[str]()
COMPARISONS = pytest.StashKey[int]()
CLAIM_ATTRIBUTE = "geometry_claim"
REPORT_ATTRIBUTE = "geometry_record"


def benchmarks_of(claims: Iterable[Claim]) -> dict[str, Callable[..., None]]:
    """One test function a claim, named after it, for a benchmark module's name space.

    Each is parametrised by case and subject: ``test_cross_tradition_cosine[chenrezig-tara@org/name]``.
    """
    functions: dict[str, Callable[..., None]] = {}
    for claim in claims:
        name = f"test_{claim.short_name}"
        if name in functions:
            raise ValueError(f"two claims of one module are called {claim.short_name}")
        functions[name] = _test_of(claim, name)
    return functions


def _test_of(claim: Claim, name: str) -> Callable[..., None]:
    def test(geometry_case: Callable[[], None]) -> None:
        geometry_case()

    test.__name__ = test.__qualname__ = name
    test.__doc__ = claim.statement
    setattr(test, CLAIM_ATTRIBUTE, claim)
    setattr(test, claim.id, True)  # a name on the function is what -k finds: -k universal.auroc
    return test


# Options and session


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options, all in one group of ``pytest --help``."""
    from geometry_bench.options import OPTIONS

    group = parser.getgroup("geometry-bench", "geometry-bench: geometric claims measured on a model")
    actions: dict[str, dict[str, Any]] = {
        "value": {"action": "store"},
        "repeated": {"action": "append"},
        "flag": {"action": "store_true", "default": False},
    }
    for option in OPTIONS:
        keywords = dict(actions[option.kind], dest=option.dest, help=option.help)
        if option.kind != "flag":
            keywords |= {"metavar": option.metavar, "default": option.default}
        if option.kind != "flag":
            keywords["type"] = _usage(option.parse)
        group.addoption(option.flag, **keywords)


def _usage(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return parse(text)
        except GeometryBenchError as error:
            import argparse

            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def session_run(config: pytest.Config) -> Run:
    """The run of this pytest session, made when the first benchmark is collected.

    Raises:
        GeometryBenchError: any input of the run is bad.
    """
    if RUN not in config.stash:
        from geometry_bench.options import asked_for, run_settings
        from geometry_bench.run.run import Run

        values = vars(config.option)
        asked = asked_for(values)
        settings = run_settings(values, progress=config.get_verbosity() > -2 and not _is_worker(config))
        config.stash[RUN] = Run(asked.specs, settings, asked.groups, asked.families)
    return config.stash[RUN]


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


# Collection


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Case × subject for functions made by :func:`benchmarks_of`."""
    claim: Claim | None = getattr(metafunc.function, CLAIM_ATTRIBUTE, None)
    if claim is None or BAD_INPUT in metafunc.config.stash:
        return
    try:
        run = session_run(metafunc.config)
    except GeometryBenchError as error:
        # An exception here would be shown with its traceback; the sentence waits for the end of the collection.
        metafunc.config.stash[BAD_INPUT] = f"geometry-bench: {error}"
        if _is_worker(metafunc.config):
            raise pytest.Collector.CollectError(f"geometry-bench: {error}") from None
        return
    targets = [(claim, case, subject) for case, subject in run.targets(claim)]
    ids = [f"{case.key}@{subject}" if case.key else subject for _, case, subject in targets]
    metafunc.parametrize("geometry_target", targets, ids=ids)


def subject_of(nodeid: str) -> str:
    """The subject in a benchmark's id; the file for any other test."""
    file, bracket, inside = nodeid.partition("[")
    return inside.rstrip("]").split("@", 1)[-1] if bracket else file


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort the cases by subject, those of several models together last, so that each model is loaded once.

    Raises:
        pytest.UsageError: any input of the run is bad, in one sentence; no test of the session has run then.
    """
    if BAD_INPUT in config.stash and not _is_worker(config):
        raise pytest.UsageError(config.stash[BAD_INPUT])
    ours = [item for item in items if _target(item) is not None]
    if not ours:
        return
    run = session_run(config)
    order = {subject: place for place, subject in enumerate([*run.subjects, *run.roster.groups, *run.roster.families])}
    places = [place for place, item in enumerate(items) if _target(item) is not None]
    ours.sort(key=lambda item: order.get(_target(item)[2], len(items)))  # type: ignore[index]
    for place, item in zip(places, ours, strict=True):
        items[place] = item
    config.stash[COMPARISONS] = len(ours)


def _target(item: pytest.Item) -> tuple[Claim, Case, str] | None:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("geometry_target") if callspec is not None else None


# Measuring


@pytest.fixture
def geometry_case(geometry_target: tuple[Claim, Case, str], request: pytest.FixtureRequest) -> Callable[[], None]:
    """Measures one case and turns its verdicts into a pytest outcome."""
    claim, case, subject = geometry_target
    config = request.config
    run = session_run(config)

    def measure() -> None:
        from geometry_bench.records.outcomes import outcome_of
        from geometry_bench.run.labs import SubjectFailedError

        # Outcomes are raised outside the handler, or pytest would tell the sentence twice, as cause and effect.
        fault: GeometryBenchError | None = None
        try:
            with _terminal(config):  # a progress bar that pytest captures helps nobody
                record = run.record(claim, case, subject, config.stash.get(COMPARISONS, 1))
        except GeometryBenchError as error:
            fault = error
        if isinstance(fault, SubjectFailedError):
            pytest.skip(str(fault))
        if fault is not None:
            pytest.fail(str(fault), pytrace=False)
        request.node.stash[RECORD] = record
        for name, value in _properties(record).items():
            request.node.user_properties.append((name, value))
        outcome = outcome_of(record, run.settings.update)
        if outcome.kind == "failed":
            pytest.fail(outcome.message, pytrace=False)
        if outcome.kind == "xfailed":
            pytest.xfail(outcome.message)
        if outcome.kind == "skipped":
            pytest.skip(outcome.message)

    return measure


RECORD = pytest.StashKey["Record"]()


def _terminal(config: pytest.Config) -> AbstractContextManager[None]:
    """Lets the terminal through to a person who watches; nothing changes in a log file or a worker."""
    capture = config.pluginmanager.getplugin("capturemanager")
    watched = capture is not None and not _is_worker(config) and sys.__stdout__ is not None and sys.__stdout__.isatty()
    return capture.global_and_fixture_disabled() if watched else nullcontext()


def _properties(record: Record) -> dict[str, str]:
    """What JUnit files hold of a case."""
    from geometry_bench.report.summary import null_text, value_text

    return {
        "claim": record.key,
        "subject": record.subject_name,
        "revision": str(record.subject["revision"]),
        "value": value_text(record.estimate),
        "null": null_text(record.estimate),
        "verdict": str(record.verdicts.claim),
        "verdict_published": str(record.verdicts.published),
        "verdict_baseline": str(record.verdicts.baseline),
    }


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Hand the record over with the report: under xdist only the controller writes."""
    report = yield
    if call.when == "call" and RECORD in item.stash:
        setattr(report, REPORT_ATTRIBUTE, item.stash[RECORD].model_dump_json())
    return report


class Controller:
    """Receives every record, in one process, and is the only writer."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.records: list[Record] = []
        self.warnings: list[str] = []
        self.written: list[str] = []
        self.unwritten = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep and write the record that a report carries."""
        text = getattr(report, REPORT_ATTRIBUTE, None)
        if text is None:
            return
        from geometry_bench.records.outcomes import outcome_of
        from geometry_bench.records.schema import Record

        run = session_run(self.config)
        record = Record.model_validate_json(text)
        self.records.append(record)
        warning = outcome_of(record, run.settings.update).warning
        if warning:
            self.warnings.append(warning)
        if run.results is not None and not run.is_resumed(record):
            try:
                run.results.append(record)
            except GeometryBenchError as error:
                pytest.exit(f"geometry-bench: {error}", returncode=pytest.ExitCode.TESTS_FAILED)

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Store baselines where asked, unless the run was cut short."""
        if not self.records:
            return
        run = session_run(self.config)
        run.close()
        if run.settings.update and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            try:
                self.written = [str(path) for path in run.update_baselines(self.records)]
            except GeometryBenchError as error:
                self.unwritten = True
                self.warnings.append(f"baselines NOT written: {error}")
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Generator[None]:
        """The table, the warnings, the files written, after all that pytest itself has to say."""
        yield
        if self.records:
            self._summarise(terminalreporter)

    def _summarise(self, terminalreporter: pytest.TerminalReporter) -> None:
        from geometry_bench.report.summary import counts_line, holm_lines, summary_tables

        run = session_run(self.config)
        terminalreporter.section("geometric claims")
        terminalreporter.write_line(summary_tables(self.records, whole=self.config.option.verbose > 0))
        terminalreporter.write_line("")
        terminalreporter.write_line(counts_line(self.records))
        for line in (*_condensed(self.warnings), *holm_lines(self.records)):
            terminalreporter.write_line(f"warning: {line}", yellow=True)
        for path in self.written:
            terminalreporter.write_line(f"baseline written: {path}")
        if run.settings.update and not self.written and not self.unwritten:
            terminalreporter.write_line("no baseline file needed a change")
        if run.results is not None:
            terminalreporter.write_line(f"records: {run.results.path}")


def _condensed(warnings: list[str], most: int = 12) -> list[str]:
    """The warnings, those of one kind and subject counted together where they are many."""
    if len(warnings) <= most:
        return warnings
    kinds: dict[str, list[str]] = {}
    for warning in warnings:
        kinds.setdefault(warning.split(":", 1)[0], []).append(warning)
    shown: list[str] = []
    for kind, lines in kinds.items():
        shown += lines if len(lines) <= 3 else [lines[0], f"{kind}: and {len(lines) - 1} more cases"]
    return shown


def pytest_configure(config: pytest.Config) -> None:
    """Install the controller everywhere but in xdist's workers."""
    if not _is_worker(config):
        config.pluginmanager.register(Controller(config), "geometry-bench-controller")


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """The effective settings, once it is known that benchmarks will run."""
    if RUN not in config.stash:
        return []
    run = config.stash[RUN]
    lines = [
        f"geometry-bench: {name} at {identity.revision[:19]}, {identity.layers} blocks × {identity.width}, "
        f"dtype {spec.dtype}, device {spec.device}, alignment {spec.alignment or 'not declared'}"
        for name, (spec, identity) in run.subjects.items()
    ]
    lines += [
        f"geometry-bench: family {name}: {', '.join(map(_member, members))}"
        for name, members in run.roster.members_by_family().items()
    ]
    lines += [
        f"geometry-bench: {group.id}: {', '.join(group.members)}; reference {group.reference}, "
        f"relative depth {run.settings.depth:.2f}"
        for group in run.roster.groups.values()
    ]
    lines += [
        f"geometry-bench: one checkpoint under several names: {', '.join(names)}"
        for names in run.roster.checkpoints()
        if len(names) > 1
    ]
    lines.append(f"geometry-bench: prompts {run.pack.id} {run.pack.hash[:12]}, controls {run.pack.controls_from}")
    lines.append(
        f"geometry-bench: baselines {run.baselines.roots[0]}"
        + (f", against {run.against.path}" if run.against else "")
        + (f", update {'+'.join(run.settings.update)}" if run.settings.update else "")
        + (f"; results {run.results.path}" if run.results else "")
    )
    return lines


def _member(spec: SubjectSpec) -> str:
    """``aligned-useful (useful, from aligned)``; the role is left out where it is the name."""
    name, parent = (str(text).rpartition("/")[2] for text in (spec.name, spec.parent or ""))
    facts = [*([spec.role] if spec.role and spec.role != name else []), *([f"from {parent}"] if parent else [])]
    return f"{name} ({', '.join(facts)})" if facts else name


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Under ``-n`` each subject's cases go to one worker, so that its model is loaded once."""
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-not-found, import-untyped, unused-ignore]

    class BySubject(LoadScopeScheduling):  # type: ignore[misc, unused-ignore]
        def _split_scope(self, nodeid: str) -> str:
            return subject_of(nodeid)

    return BySubject(config, log)
