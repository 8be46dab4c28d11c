"""Bad input, as a user meets it: one clear sentence, exit code 2, no traceback, nothing written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Bench, Shell, as_toml, read_lines, small_pack

from geometry_bench.records.measurement import SCHEMA

Refused = Callable[..., str]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the command."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def refused(work: Path, shell: Shell) -> Refused:
    """``geometry-bench run``, which must be refused; its sentence."""

    def run(*arguments: object, claim: str = "compassion.tightest_pair", before: str = "") -> str:
        options = ("--claim", claim, "--results=results", "--baselines=baselines", "--baseline-update=new")
        there = sorted(work.rglob("*"))
        code, out, err = shell("run", *options, *arguments)
        assert (code, bool(out)) == (2, bool(before))
        assert before in out
        assert sorted(work.rglob("*")) == there
        assert err.startswith("geometry-bench: ")
        assert err.count("\n") == 1
        return err.removeprefix("geometry-bench: ").rstrip()

    return run


@pytest.fixture
def own(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may break."""
    return Path(shutil.copytree(tiny, tmp_path / "own"))


# Subjects


def test_a_folder_that_holds_no_model(refused: Refused, tiny: Path, tmp_path: Path) -> None:
    sentence = "There is no folder /no/such/folder; check the path given as model."
    assert refused("--model=/no/such/folder") == sentence
    assert refused(f"--model={tiny}", "--model=/no/such/folder") == sentence  # the good one is not measured either
    (tmp_path / "empty").mkdir()
    assert refused(f"--model={tmp_path / 'empty'}").endswith("is not a model folder: it has no config.json.")


def test_an_encoder(refused: Refused, own: Path) -> None:
    config = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 16, "num_hidden_layers": 2}
    (own / "config.json").write_text(json.dumps(config))
    sentence = refused(f"--model={own}")
    assert "BertModel" in sentence or "bert" in sentence
    assert "encoder" in sentence or "decoder" in sentence


def test_pickled_weights(refused: Refused, own: Path) -> None:
    (own / "model.safetensors").rename(own / "pytorch_model.bin")
    assert "--allow-pickle" in refused(f"--model={own}")


def test_a_hub_that_cannot_be_reached(refused: Refused) -> None:
    assert "and org/name is not in the local cache" in refused("--model=org/name")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("RevisionNotFoundError", "org/name has no revision 'v9' on the Hub"),
        ("GatedRepoError", "org/name is gated on the Hub; accept its terms"),
        ("RepositoryNotFoundError", "no Hub repository 'org/name'"),
    ],
)
def test_refusals_of_the_hub(refused: Refused, monkeypatch: pytest.MonkeyPatch, error: str, words: str) -> None:
    from huggingface_hub import HfApi, errors

    def model_info(*_: Any, **__: Any) -> None:
        raise getattr(errors, error)("no", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr(HfApi, "model_info", model_info)
    assert words in refused("--model=org/name", "--revision=v9")


def test_a_dtype_that_does_not_exist(refused: Refused, tiny: Path) -> None:
    assert "Unknown dtype 'float7'; use auto," in refused(f"--model={tiny}", "--dtype=float7", before="tiny at ")


def test_weights_with_nan(bench: Bench, refused: Refused, own: Path, tmp_path: Path) -> None:
    """Found when the model is loaded, and told once; under pytest its first case fails and the others are skipped."""
    from safetensors.numpy import load_file, save_file

    weights = load_file(own / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = np.nan
    save_file(weights, own / "model.safetensors", metadata={"format": "pt"})
    sentence = refused(f"--model={own}", claim="compassion.*", before="own at ")
    assert sentence.startswith("The weight model.layers.1.mlp.up_proj.weight in ")
    assert "NaN or infinite" in sentence
    results = ("--results", tmp_path / "results", "--baselines", tmp_path / "base", "--baseline-update=new")
    found = bench(*results, "-k", "test_tightest_pair or test_secular_divergence", models=(own,))
    assert found.ret == 2
    found.assert_outcomes(failed=1, skipped=1)
    assert found.outlines.count(sentence) == 1
    assert "Traceback" not in found.stdout.str()
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "base").exists()


# Prompts, claims, options


def broken(change: str) -> dict[str, Any]:
    content = small_pack()
    if change == "missing key":
        del content["tara"]
    elif change == "empty text":
        content["tara"] = "  "
    elif change == "duplicate id":
        content["benign"] = [{"id": "same", "text": text} for text in content["benign"]]
    return content


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("missing key", "has no key 'tara'"),
        ("empty text", "has an empty text at 'tara'"),
        ("duplicate id", "has the id 'same' twice in 'benign'"),
    ],
)
def test_a_broken_pack(refused: Refused, tiny: Path, tmp_path: Path, change: str, words: str) -> None:
    path = tmp_path / "pack.toml"
    path.write_text(as_toml(broken(change)), encoding="utf-8")
    sentence = refused(f"--model={tiny}", f"--prompts={path}")
    assert words in sentence
    assert str(path) in sentence


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompts=nowhere.toml"], "There is no prompt pack at nowhere.toml"),
        (["--claim=compassion.tightest_pairs"], "'compassion.tightest_pairs' (did you mean compassion.tightest_pair"),
        (["--against=org/other"], "--against org/other: no baseline is stored for it"),
        (["--alignment=elsewhere=SFT"], "--alignment names elsewhere, which is no --model"),
        (["--resume", "--alignment=nonsense=SFT"], "nonsense"),  # results that do not exist yet are a run that begins
        (["--alignment=SFT"], "write it as MODEL=METHOD"),
        (["--baseline-update=changed"], "needs a reason"),
        (["--baseline-update=all"], "--baseline-update=all is not known"),
        (["--adapter=/no/such/adapter"], "There is no adapter folder /no/such/adapter"),
        (["--batch-size=0"], "--batch-size: '0' is not a count: give a whole number from 1 on."),
    ],
)
def test_options_that_do_not_fit(refused: Refused, tiny: Path, arguments: list[str], words: str) -> None:
    assert words in refused(f"--model={tiny}", *arguments)


# Files


def test_results_that_cannot_be_written_or_read(refused: Refused, work: Path, tiny: Path) -> None:
    (work / "file").write_text("")
    assert "file/below/records.jsonl cannot be written (Not a directory)" in refused(
        f"--model={tiny}", "--results=file/below"
    )
    (work / "results").mkdir()
    (work / "results" / "records.jsonl").write_text(json.dumps({"schema_version": SCHEMA + 1}) + "\n")
    assert "records.jsonl line 1 has schema" in refused(f"--model={tiny}", "--resume")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_results_without_permission(refused: Refused, work: Path, tiny: Path) -> None:
    (work / "closed").mkdir(mode=0o500)
    assert "closed/records.jsonl cannot be written (Permission denied)" in refused(
        f"--model={tiny}", "--results=closed"
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"schema_version": 1, "cas', "is not valid JSON"),
        (json.dumps({"schema_version": SCHEMA + 1, "cases": {}}), f"has schema {SCHEMA + 1}, newer than"),
        (json.dumps({"schema_version": SCHEMA, "cases": {}}), "is damaged at 'subject'"),
    ],
)
def test_a_bad_baseline_of_the_subject(
    refused: Refused, work: Path, tiny: Path, content: str, words: str, shell: Shell, pack: Path
) -> None:
    run = (f"--model={tiny}", f"--prompts={pack}")
    shell("run", "--claim=compassion.tightest_pair", *run, "--baselines=baselines", "--baseline-update=new")
    (path,) = (work / "baselines").rglob("*.json")
    path.write_text(content)
    sentence = refused(*run)
    assert words in sentence
    assert str(path.relative_to(work)) in sentence
    assert path.read_text() == content


# Under pytest


def test_pytest_refuses_with_the_same_sentences(bench: Bench, tiny: Path) -> None:
    for arguments, sentence in (
        (["--resume"], "ERROR: geometry-bench: --resume needs --results DIR: the folder of the run to go on with."),
        (["--model=/no/such"], "ERROR: geometry-bench: There is no folder /no/such; check the path given as model."),
    ):
        found = bench(*arguments, models=(tiny,))
        assert (found.ret, found.stderr.str().strip()) == (pytest.ExitCode.USAGE_ERROR, sentence)
    found = bench("--batch-size=0", models=(tiny,))
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines(["*argument --batch-size: '0' is not a count: give a whole number from 1 on."])


def test_under_xdist_the_sentence_is_the_same(bench: Bench, tmp_path: Path) -> None:
    found = bench("-n", "1", "--results", tmp_path / "results", models=("/no/such/folder",), subprocess=True)
    assert found.ret != 0
    sentence = "geometry-bench: There is no folder /no/such/folder; check the path given as model."
    assert found.outlines.count(sentence) == 1
    assert "Traceback" not in found.stdout.str()
    assert not (tmp_path / "results").exists()


def test_good_input_is_not_refused(bench: Bench, own: Path, tmp_path: Path) -> None:
    """The counterpart: the same call on an unbroken model measures and writes."""
    found = bench("-k", "test_tightest_pair", "--results", tmp_path / "results", models=(own,))
    assert found.ret in (0, 1)
    assert len(read_lines(tmp_path / "results")) == 1
