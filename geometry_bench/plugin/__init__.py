"""The pytest plugin (entry point ``pytest11``): it parametrises a plan and shows its cases; the controller sums up.

Every pytest run of an environment imports this module, so it imports nothing heavy: torch and transformers come in when the
first case is measured.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from geometry_bench.errors import GeometryBenchError
from geometry_bench.plugin.controller import CASE, Case, Controller, bench_of, defer, is_worker

if TYPE_CHECKING:
    from geometry_bench.claims.model import Claim
    from geometry_bench.run.plan import Missing, Task

BAD_INPUT = pytest.StashKey[str]()
CLAIM = "geometry_claim"


def benchmarks_of(claims: Iterable[Claim]) -> dict[str, Callable[..., None]]:
    """One test function a claim, named after it, for a benchmark module's name space.

    Each is parametrised by case and subject: ``test_cross_tradition_cosine[chenrezig-tara@org/name]``.
    """
    functions: dict[str, Callable[..., None]] = {}
    for claim in claims:
        name = f"test_{claim.short_name}"
        if name in functions:  # two claims of one module that differ in their first word
            name = f"test_{claim.id.replace('.', '_')}"
        functions[name] = _test_of(claim, name)
    return functions


def _test_of(claim: Claim, name: str) -> Callable[..., None]:
    def test(geometry_task: Task | Missing, request: pytest.FixtureRequest) -> None:
        _show(geometry_task, request)

    test.__name__ = test.__qualname__ = name
    test.__doc__ = claim.statement
    setattr(test, CLAIM, claim)
    setattr(test, claim.id, True)  # a name on the function is what -k finds: -k universal.auroc
    return test


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options, all in one group of ``pytest --help``."""
    from geometry_bench.options import OPTIONS

    group = parser.getgroup("geometry-bench", "geometry-bench: geometric claims measured on a model")
    for option in OPTIONS:
        action = {"value": "store", "repeated": "append", "flag": "store_true"}[option.kind]
        group.addoption(option.flag, action=action, dest=option.dest, help=option.help, **option.for_argparse())


def pytest_configure(config: pytest.Config) -> None:
    """Install the controller everywhere but in xdist's workers, and what xdist needs where it is there."""
    if not is_worker(config):
        config.pluginmanager.register(Controller(config), "geometry-bench-controller")
    if config.pluginmanager.hasplugin("xdist"):
        from geometry_bench.plugin import distributed

        config.pluginmanager.register(distributed, "geometry-bench-distributed")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Case × subject for functions made by :func:`benchmarks_of`, or what would supply a subject."""
    claim: Claim | None = getattr(metafunc.function, CLAIM, None)
    if claim is None or BAD_INPUT in metafunc.config.stash:
        return
    try:
        plan = bench_of(metafunc.config).plan
    except GeometryBenchError as error:
        # An exception here would be shown with its traceback; the sentence waits for the end of the collection.
        metafunc.config.stash[BAD_INPUT] = f"geometry-bench: {error}"
        if is_worker(metafunc.config):
            raise pytest.Collector.CollectError(f"geometry-bench: {error}") from None
        return
    parameters = [pytest.param(one, id=f"no {claim.scope}") for one in plan.missing if one.claim.id == claim.id]
    parameters += [pytest.param(task, id=task.id) for task in plan.of(claim)]
    metafunc.parametrize("geometry_task", parameters)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the cases in the plan's order, so that each model is loaded once.

    Raises:
        pytest.UsageError: any input of the run is bad, in one sentence; no test of the session has run then.
    """
    if BAD_INPUT in config.stash and not is_worker(config):
        raise pytest.UsageError(config.stash[BAD_INPUT])
    places = [place for place, item in enumerate(items) if _task(item) is not None]
    if not places:
        return
    bench = bench_of(config)
    order = {task.place: place for place, task in enumerate(bench.plan.tasks)}
    ours = sorted((items[place] for place in places), key=lambda item: order.get(_place(item), len(order)))
    if is_worker(config):  # groups and families take longest: begun last, they would leave the other workers idle
        ours.sort(key=lambda item: not getattr(getattr(_task(item), "target", None), "is_joint", False))
    for place, item in zip(places, ours, strict=True):
        items[place] = item
    bench.chosen = frozenset(map(_place, ours))


def _task(item: pytest.Item) -> Task | Missing | None:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("geometry_task") if callspec is not None else None


def _place(item: pytest.Item) -> tuple[str, str]:
    task = _task(item)
    assert task is not None
    return task.place


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Leave cases that are computed from other measurements to the controller."""
    task = _task(item)
    if task is None or not getattr(task, "is_joint", False):
        return None
    defer(item, _place(item))
    return True


def _show(task: Task | Missing, request: pytest.FixtureRequest) -> None:
    """Measure one case and show its judgement as a pytest outcome."""
    config = request.config
    capture = config.pluginmanager.getplugin("capturemanager")
    watched = capture is not None and not is_worker(config) and sys.__stdout__ is not None and sys.__stdout__.isatty()
    # A progress bar that pytest captures helps nobody.
    with capture.global_and_fixture_disabled() if watched else nullcontext():
        case = Case.of(bench_of(config), task)
    request.node.stash[CASE] = case
    request.node.user_properties += list(case.properties.items())
    if case.outcome == "failed":
        pytest.fail(case.message, pytrace=False)
    if case.outcome == "xfailed":
        pytest.xfail(case.message)
    if case.outcome == "skipped":
        pytest.skip(case.message)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Hand the case over with the report: under xdist only the controller writes."""
    report = yield
    if call.when == "call" and CASE in item.stash:
        item.stash[CASE].attach(report)
        if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
            # Where the plugin calls pytest.skip tells nobody anything: the benchmark file and the claim do.
            report.longrepr = item.stash[CASE].skipped(item.nodeid)  # type: ignore[assignment]
    return report
