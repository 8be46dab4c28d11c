"""The callback: training goes on as if nothing had been measured, and what was measured is logged and written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

import geometry_bench as gb
from geometry_bench.errors import GeometryBenchError
from geometry_bench.integrations import GeometryCallback
from geometry_bench.resources import data_root

STEPS, EVERY = 6, 2
ZOO = data_root() / "fixtures" / "zoo"
SETS = {role: f"{ZOO}/sets/requests.toml:{role}" for role in ("safe", "unsafe")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the zoo, with dropout, so that training draws random numbers."""
    start = tmp_path_factory.mktemp("trained") / "start"
    shutil.copytree(ZOO / "llama-d64" / "aligned", start)
    config = json.loads((start / "config.json").read_text())
    (start / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.2}))
    return start


def trainer(folder: Path, out: Path, **options: Any) -> Trainer:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer([f"A sentence of some length, number {n}." for n in range(24)], add_special_tokens=False)[
        "input_ids"
    ]
    least = min(map(len, ids))
    rows = [{"input_ids": one[:least], "labels": one[:least]} for one in ids]
    arguments = TrainingArguments(
        str(out),
        max_steps=STEPS,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        report_to=[],
        logging_strategy="no",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
        **options,
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer)


def trained(one: Trainer) -> dict[str, torch.Tensor]:
    one.train()
    return {name: value.clone() for name, value in one.model.state_dict().items()}


def test_training_is_the_same_and_its_geometry_is_logged_and_written(folder: Path, tmp_path: Path) -> None:
    alone = trained(trainer(folder, tmp_path / "a"))
    watched = trainer(folder, tmp_path / "b")
    watched.add_callback(
        GeometryCallback(
            watched,
            every=EVERY,
            results=tmp_path / "results",
            name="mine",
            claims="gate.refusal",
            requests=40,
            sets=SETS,
        )
    )
    weights = trained(watched)
    assert weights.keys() == alone.keys()
    assert all(torch.equal(weights[name], alone[name]) for name in alone)

    found = gb.load(tmp_path / "results")
    assert [one.measurement.subject.id for one in found] == [f"mine/step-{step}" for step in range(0, STEPS + 1, EVERY)]
    logged = {one["step"]: one for one in watched.state.log_history if "geometry/gate.refusal/value" in one}
    assert list(logged) == list(range(0, STEPS + 1, EVERY))
    distances = [one["geometry/gate.refusal/delta"] for one in logged.values()]
    assert distances[0] == 0
    assert distances[-1] > 0.05
    again = gb.measure(
        watched.model, tokenizer=watched.processing_class, claims="gate.refusal", requests=40, sets=SETS, cache=False
    )
    assert again["gate.refusal"].value == pytest.approx(logged[STEPS]["geometry/gate.refusal/value"], abs=1e-6)


def test_what_cannot_be_measured_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(GeometryBenchError, match="every is 0"):
        GeometryCallback(None, every=0)
    blind = trainer(folder, tmp_path)
    blind.processing_class = None
    blind.callback_handler.processing_class = None
    blind.add_callback(GeometryCallback(blind))
    with pytest.raises(GeometryBenchError, match="processing_class=tokenizer"):
        blind.train()
