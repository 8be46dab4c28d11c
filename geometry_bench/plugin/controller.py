"""Receives every case, in one process, computes those of several subjects together, and is the only writer."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from geometry_bench.errors import GeometryBenchError

if TYPE_CHECKING:
    from geometry_bench.records.judgement import Judgement
    from geometry_bench.run.bench import Bench
    from geometry_bench.run.plan import Missing, Task

BENCH = pytest.StashKey["Bench"]()
CASE = pytest.StashKey["Case"]()
DEFERRED = pytest.StashKey[list[Any]]()
ATTRIBUTE = "geometry_case"


def is_worker(config: pytest.Config) -> bool:
    """Whether this is one of xdist's workers."""
    return hasattr(config, "workerinput")


def bench_of(config: pytest.Config) -> Bench:
    """The run of this pytest session, made when the first benchmark is collected.

    Raises:
        GeometryBenchError: any input of the run is bad.
    """
    if BENCH not in config.stash:
        from geometry_bench.asked import output_of, request_of
        from geometry_bench.run.bench import Bench

        values = vars(config.option)
        progress = config.get_verbosity() > -2 and not is_worker(config)
        config.stash[BENCH] = Bench(request_of(values, progress=progress), output_of(values))
    return config.stash[BENCH]


def looks_like_benchmarks(config: pytest.Config) -> bool:
    """Whether a run is about benchmarks, as far as its arguments tell: known before anything is collected."""
    return any("benchmarks" in str(argument) for argument in config.args)


def defer(item: pytest.Item, place: tuple[str, str]) -> None:
    """Remember a case for the controller; from a worker it travels when the worker ends."""
    deferred = item.config.stash.setdefault(DEFERRED, [])
    deferred.append([item.nodeid, list(item.location), list(place)])
    if is_worker(item.config):
        item.config.workeroutput[ATTRIBUTE] = deferred  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Case:
    """What one case shows, and the measurement as it travels from a worker to the controller."""

    claim: str
    outcome: Literal["passed", "failed", "xfailed", "skipped"]
    message: str
    measurement: str | None = None
    resumed: bool = False
    properties: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, bench: Bench, task: Task | Missing) -> Case:
        """Measure a task and judge it."""
        from geometry_bench.report.outcomes import properties
        from geometry_bench.run.execute import SubjectFailedError
        from geometry_bench.run.plan import Missing

        if isinstance(task, Missing):
            return cls(task.claim.id, "skipped", task.sentence)
        try:
            measurement = bench.session.measure(task)
        except GeometryBenchError as error:
            return cls(task.claim.id, "skipped" if isinstance(error, SubjectFailedError) else "failed", str(error))
        judged = bench.judge(measurement)
        shown = bench.outcome(judged)
        resumed = bench.session.is_resumed(measurement)
        record = measurement.model_dump_json()
        return cls(task.claim.id, shown.kind, shown.message, record, resumed, properties(judged))

    def attach(self, report: pytest.TestReport) -> None:
        """Let a report carry the case, as text."""
        setattr(report, ATTRIBUTE, json.dumps(asdict(self)))

    @staticmethod
    def on(report: pytest.TestReport) -> Case | None:
        """The case that a report carries."""
        text = getattr(report, ATTRIBUTE, None)
        return None if text is None else Case(**json.loads(text))

    def skipped(self, nodeid: str) -> tuple[str, int | None, str]:
        """Why the case was skipped, as pytest's summary tells it: cases of one claim with one reason are one line there."""
        return nodeid.partition("::")[0], None, f"Skipped: {self.claim}: {self.message}"

    def report(self, nodeid: str, location: tuple[str, int | None, str]) -> pytest.TestReport:
        """The case as pytest reports one."""
        longrepr: Any = {"passed": None, "skipped": self.skipped(nodeid)}.get(self.outcome, self.message)
        outcome = "skipped" if self.outcome == "xfailed" else self.outcome
        report = pytest.TestReport(
            nodeid, location, {}, outcome, longrepr, "call", user_properties=self.properties.items()
        )
        if self.outcome == "xfailed":
            report.wasxfail = self.message
        self.attach(report)
        return report


class Controller:
    """The plugin's part that runs in one process alone."""

    def __init__(self, config: pytest.Config) -> None:
        self.config, self.deferred = config, config.stash.setdefault(DEFERRED, [])
        self.faults = 0
        self.judged: list[Judgement] = []
        self.written: list[Path] | None = None
        self.has_opened = False

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over the cases that a worker left to the controller."""
        self.deferred += getattr(node, "workeroutput", {}).get(ATTRIBUTE, [])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep and write the measurement that a report carries."""
        case = Case.on(report)
        if case is None:
            return
        if case.measurement is None:
            self.faults += case.outcome == "failed"
            return
        from geometry_bench.records.measurement import Measurement

        measurement = Measurement.model_validate_json(case.measurement)
        try:
            bench_of(self.config).write(measurement, resumed=case.resumed)
        except GeometryBenchError as error:
            pytest.exit(f"geometry-bench: {error}", returncode=pytest.ExitCode.TESTS_FAILED)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        """After all single subjects: the cases computed from their measurements."""
        result = yield
        for nodeid, location, (key, target) in self.deferred:
            bench, hook = bench_of(self.config), self.config.hook
            task = next(task for task in bench.plan.tasks if task.place == (key, target))
            hook.pytest_runtest_logstart(nodeid=nodeid, location=tuple(location))
            hook.pytest_runtest_logreport(report=Case.of(bench, task).report(nodeid, tuple(location)))
            hook.pytest_runtest_logfinish(nodeid=nodeid, location=tuple(location))
        return result

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Judge the run as a whole, store baselines where asked unless it was cut short, and settle the exit code."""
        if BENCH not in self.config.stash or not (self.faults or bench_of(self.config).measurements):
            return
        from geometry_bench.report.outcomes import CLEAN

        bench = bench_of(self.config)
        bench.session.close()
        self.judged = bench.judgements()
        ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        if not ended or session.shouldstop or session.shouldfail:  # the latter two by -x and --maxfail, too
            return
        self.written = []
        bench.write_report(self.judged)
        code = bench.exit_code(self.judged, self.faults)
        if code != CLEAN:
            session.exitstatus = code
        if bench.output.update:
            try:
                self.written = bench.update_baselines()
            except GeometryBenchError as error:
                pytest.exit(
                    f"geometry-bench: not all baselines are written: {error}", returncode=pytest.ExitCode.TESTS_FAILED
                )

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Generator[None]:
        """The table, the warnings, the files written, after all that pytest itself has to say."""
        yield
        if self.judged:
            from geometry_bench.report.terminal import painted
            from geometry_bench.run.describe import closing

            terminalreporter.section("geometric claims")
            whole, coloured = self.config.option.verbose > 0, self.config.get_terminal_writer().hasmarkup
            for line in closing(bench_of(self.config), self.judged, self.written, whole=whole):
                terminalreporter.write_line(painted(line) if coloured else line)

    def pytest_report_collectionfinish(self) -> list[str]:
        """The effective settings, once it is known that benchmarks will run."""
        if BENCH not in self.config.stash or self.has_opened:
            return []
        from geometry_bench.report.terminal import folded
        from geometry_bench.run.describe import opening

        self.has_opened = True
        return [line for one in opening(bench_of(self.config)) for line in folded(f"geometry-bench: {one}")]

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self) -> None:
        """The same where workers collect, as soon as one of them has: of runs that look like benchmarks."""
        reporter = self.config.pluginmanager.getplugin("terminalreporter")
        if reporter is None or not looks_like_benchmarks(self.config):
            return
        with suppress(GeometryBenchError):  # a bad input is told by the workers
            bench_of(self.config)
        for line in self.pytest_report_collectionfinish():
            reporter.write_line(line)
