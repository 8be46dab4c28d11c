"""How long the report of many subjects takes, and its board in a browser.

``pytest benchmarks/performance/test_report_of_many.py`` builds the site of 500 made-up models on which every claim about a
model has a value, a null and a profile, writes it, and opens its board. Limits are of processor time, which other programs
do not lengthen.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from geometry_bench.claims.registry import CLAIMS
from geometry_bench.records.estimates import Curve, Estimate, Null, Units
from geometry_bench.records.facts import ModelFacts, PromptInputs
from geometry_bench.records.measurement import Environment, Measurement
from geometry_bench.records.reading import Kept
from geometry_bench.report.site import contents_of, pages
from geometry_bench.storage import write_folder

SUBJECTS = 500
BLOCKS = 24
SECONDS_TO_BUILD = 60
BYTES_OF_THE_BOARD = 2_000_000
SECONDS_TO_ANSWER = 2


def made_up() -> Iterator[Kept]:
    """Every case of every claim about a model, on each of the subjects."""
    random = np.random.default_rng(0)
    environment = Environment(
        packages={"torch": "2.13.0"}, python="3.11", platform="Linux-x86_64", seed=0, seconds=1.0, peak_memory_bytes=1
    )
    inputs = PromptInputs(hash="a" * 64, pack="compassion-safety", pooling="last", site="block_output")
    cases = [(claim, case) for claim in CLAIMS.values() if claim.scope == "model" for case in claim.cases]
    for number in range(SUBJECTS):
        name = f"organisation-{number % 17}/model-of-a-usual-length-{number:03d}-Instruct"
        subject = ModelFacts(
            **{
                "id": name,
                "name": name,
                "revision": f"{number:040x}",
                "origin": "hub",
                "architecture": "LlamaForCausalLM",
            },
            **{"layers": BLOCKS, "width": 512, "device": "cuda:0", "dtype": "bfloat16", "attention": "sdpa"},
            alignment=("SFT", "SFT + DPO", "SFT + RLHF", None)[number % 4],
        )
        for claim, case in cases:
            profile = random.uniform(-1, 1, BLOCKS)
            value = float(profile[-1])
            estimate = Estimate(
                value=value,
                error=0.02,
                low=value - 0.04,
                high=value + 0.04,
                n=8,
                units=Units(kind="message", ids=None, values=[value] * 8),
                block=BLOCKS - 1,
                null=Null.of("unrelated system prompts", random.uniform(-1, 1, 32), value),
                curves={"profile": Curve.over_blocks(profile)},
            )
            measurement = Measurement(
                claim=claim.id,
                claim_version=claim.version,
                case=case.key,
                subject=subject,
                inputs=inputs,
                estimates={"corrected": estimate},
                environment=environment,
            )
            yield Kept(measurement, Path("results/records.jsonl"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    kept = list(made_up())
    folder = tmp_path_factory.mktemp("site") / "out"
    began = time.process_time()
    write_folder(folder, pages(contents_of(kept)), ".mark")
    return folder, time.process_time() - began


def test_the_site_is_built_in_time_and_its_board_is_small(site: tuple[Path, float]) -> None:
    folder, seconds = site
    files = [path for path in folder.rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in files)
    boards = {path.name: path.stat().st_size for path in [folder / "index.html", *(folder / "board").iterdir()]}
    print(f"\n{len(files)} files, {total / 1e6:.0f} MB, built in {seconds:.1f} s of processor time")
    print({name: f"{size / 1e6:.2f} MB" for name, size in boards.items()})
    assert boards["index.html"] <= BYTES_OF_THE_BOARD
    assert seconds <= SECONDS_TO_BUILD


def test_the_board_answers_in_time(site: tuple[Path, float]) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto("about:blank")
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})

        def worked() -> float:
            told = session.send("Performance.getMetrics")["metrics"]
            return next(float(one["value"]) for one in told if one["name"] == "TaskDuration")

        began = time.perf_counter()
        page.goto((site[0] / "index.html").as_uri(), wait_until="commit")
        page.wait_for_selector("#board[data-ready]")
        ready, busy = time.perf_counter() - began, worked()
        began = time.perf_counter()
        page.get_by_label("Search").fill("model-of-a-usual-length-123")
        page.wait_for_function("document.querySelectorAll('#board tbody tr').length === 1")
        found = time.perf_counter() - began
        browser.close()
    print(f"\nready after {busy:.2f} s of the page's processor time ({ready:.2f} s passed), searched in {found:.2f} s")
    assert busy <= SECONDS_TO_ANSWER
