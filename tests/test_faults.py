"""Bad input, as a user meets it: one clear sentence, a non-zero exit, no traceback, nothing written."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Bench, as_toml, read_lines, small_pack
from geometry_bench.records.schema import SCHEMA

from geometry_bench.cli import app as cli

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Refusal:
    """``geometry-bench run`` as installed, in this process; it must be refused, and is asked for its sentence."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder, self.monkeypatch, self.capfd = folder, monkeypatch, capfd

    def __call__(self, *arguments: object, claim: str = "compassion.tightest_pair") -> str:
        options = ["--claim", claim, "--results", "results", "--baselines", "baselines", "--baseline-update=new"]
        given = [str(argument) for argument in arguments]
        self.monkeypatch.chdir(self.folder)
        self.monkeypatch.setattr(sys, "argv", ["geometry-bench", "run", *options, *given])
        before = sorted(self.folder.rglob("*"))
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = self.capfd.readouterr()
        assert end.value.code not in (0, None)
        assert "Traceback" not in out + err
        assert "geometry_bench/" not in out + err  # no line of the source either
        assert sorted(self.folder.rglob("*")) == before
        lines = [
            line for line in (out + "\n" + err).splitlines() if "geometry-bench: " in line or "GeometryBench" in line
        ]
        told = [line for line in lines if not line.startswith("plugins:")]
        assert len(told) == 1, out + err
        return told[0].split("geometry-bench: ", 1)[1]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Refusal:
    folder = tmp_path / "work"
    folder.mkdir()
    return Refusal(folder, monkeypatch, capfd)


@pytest.fixture
def own(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may break."""
    return Path(shutil.copytree(tiny, tmp_path / "own"))


# --- subjects --------------------------------------------------------------------------------------------------------


def test_a_missing_path(refused: Refusal) -> None:
    assert refused("--model=/no/such/folder") == "There is no folder /no/such/folder; check the path given as model."


def test_a_folder_without_a_model(refused: Refusal, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert refused(f"--model={tmp_path / 'empty'}").endswith("is not a model folder: it has no config.json.")


def test_an_encoder(refused: Refusal, own: Path) -> None:
    config = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 16, "num_hidden_layers": 2}
    (own / "config.json").write_text(json.dumps(config))
    sentence = refused(f"--model={own}")
    assert "BertModel" in sentence or "bert" in sentence
    assert "encoder" in sentence or "decoder" in sentence


def test_pickled_weights(refused: Refusal, own: Path) -> None:
    (own / "model.safetensors").rename(own / "pytorch_model.bin")
    assert "--allow-pickle" in refused(f"--model={own}")


def test_a_good_model_beside_a_bad_one_is_not_measured_either(refused: Refusal, tiny: Path) -> None:
    assert "There is no folder" in refused(f"--model={tiny}", "--model=/no/such/folder")


def test_a_hub_that_cannot_be_reached(refused: Refusal) -> None:
    assert "and org/name is not in the local cache" in refused("--model=org/name")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("RevisionNotFoundError", "org/name has no revision 'v9' on the Hub"),
        ("GatedRepoError", "org/name is gated on the Hub; accept its terms"),
        ("RepositoryNotFoundError", "no Hub repository 'org/name'"),
    ],
)
def test_refusals_of_the_hub(refused: Refusal, monkeypatch: pytest.MonkeyPatch, error: str, words: str) -> None:
    from huggingface_hub import HfApi, errors

    def model_info(*_: Any, **__: Any) -> None:
        raise getattr(errors, error)("no", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr(HfApi, "model_info", model_info)
    assert words in refused("--model=org/name", "--revision=v9")


def test_a_dtype_that_does_not_exist(bench: Bench, tiny: Path, tmp_path: Path) -> None:
    found = bench("--dtype=float7", "-k", "test_tightest_pair", "--results", tmp_path / "results", models=(tiny,))
    assert found.ret == pytest.ExitCode.TESTS_FAILED
    assert found.stdout.str().count("Unknown dtype 'float7'; use auto,") == 1
    assert not (tmp_path / "results").exists()


def test_weights_with_nan(bench: Bench, own: Path, tmp_path: Path) -> None:
    """Found when the model is loaded: its first case fails with the sentence, the others are skipped."""
    from safetensors.numpy import load_file, save_file

    weights = load_file(own / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = np.nan
    save_file(weights, own / "model.safetensors", metadata={"format": "pt"})
    results = ("--results", tmp_path / "results", "--baselines", tmp_path / "base", "--baseline-update=new")
    found = bench(*results, "-k", "test_tightest_pair or test_secular_divergence", models=(own,))
    assert found.ret == pytest.ExitCode.TESTS_FAILED
    told = [line for line in found.outlines if "NaN or infinite" in line and not line.startswith("FAILED")]
    assert len(told) == 1
    found.assert_outcomes(failed=1, skipped=1)
    assert told[0].startswith("The weight model.layers.1.mlp.up_proj.weight in ")
    assert "Traceback" not in found.stdout.str()
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "base").exists()


# --- prompts, claims, options ----------------------------------------------------------------------------------------


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
def test_a_broken_pack(refused: Refusal, tiny: Path, tmp_path: Path, change: str, words: str) -> None:
    path = tmp_path / "pack.toml"
    path.write_text(as_toml(broken(change)), encoding="utf-8")
    sentence = refused(f"--model={tiny}", f"--prompts={path}")
    assert words in sentence
    assert str(path) in sentence


def test_a_pack_that_is_not_there(refused: Refusal, tiny: Path) -> None:
    assert "There is no prompt pack at nowhere.toml" in refused(f"--model={tiny}", "--prompts=nowhere.toml")


def test_an_unknown_claim(refused: Refusal, tiny: Path) -> None:
    sentence = refused(f"--model={tiny}", claim="compassion.tightest_pairs")
    assert sentence.startswith("There is no claim 'compassion.tightest_pairs' (did you mean compassion.tightest_pair")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--resume", "--results=none"], None),
        (["--against=org/other"], "--against org/other: no baseline is stored for it"),
        (["--alignment=elsewhere=SFT"], "--alignment names elsewhere, which is no --model"),
        (["--alignment=SFT"], "write it as MODEL=METHOD"),
        (["--baseline-update=changed"], "needs a reason"),
        (["--adapter=/no/such/adapter"], "There is no adapter folder /no/such/adapter"),
    ],
)
def test_options_that_do_not_fit(refused: Refusal, tiny: Path, arguments: list[str], words: str | None) -> None:
    if words is None:  # a folder that does not exist yet is a run that begins
        assert "nonsense" in refused(f"--model={tiny}", *arguments, "--alignment=nonsense=SFT")
    else:
        assert words in refused(f"--model={tiny}", *arguments)


def test_resume_without_results(bench: Bench, tiny: Path) -> None:
    found = bench("--resume", models=(tiny,))
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    assert found.stderr.str().strip() == (
        "ERROR: geometry-bench: --resume needs --results DIR: the folder of the run to go on with."
    )


def test_a_count_that_is_none(bench: Bench, tiny: Path) -> None:
    found = bench("--batch-size=0", models=(tiny,))
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines(["*argument --batch-size: '0' is not a count: give a whole number from 1 on."])


# --- files -----------------------------------------------------------------------------------------------------------


def test_results_below_a_file(refused: Refusal, tiny: Path) -> None:
    (refused.folder / "file").write_text("")
    assert "The results folder file/below cannot be written" in refused(f"--model={tiny}", "--results=file/below")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_results_without_permission(refused: Refusal, tiny: Path) -> None:
    (refused.folder / "closed").mkdir(mode=0o500)
    assert "is not writable" in refused(f"--model={tiny}", "--results=closed")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"schema_version": 1, "cas', "is not valid JSON"),
        (json.dumps({"schema_version": SCHEMA + 1, "cases": {}}), f"has schema {SCHEMA + 1}, newer than"),
        (json.dumps({"schema_version": SCHEMA, "cases": {}}), "is damaged at 'subject'"),
    ],
)
def test_a_bad_baseline(refused: Refusal, tiny: Path, content: str, words: str) -> None:
    path = refused.folder / "baselines" / "tiny" / "sha256-0" / "float32-sdpa.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    sentence = refused(f"--model={tiny}")
    assert words in sentence
    assert "baselines/tiny/sha256-0/float32-sdpa.json" in sentence
    assert path.read_text() == content


def test_newer_results_are_not_resumed(refused: Refusal, tiny: Path) -> None:
    path = refused.folder / "results" / "records.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps({"schema_version": SCHEMA + 1}) + "\n")
    assert "records.jsonl line 1 has schema" in refused(f"--model={tiny}", "--resume")


def test_under_xdist_the_sentence_is_the_same(bench: Bench, tmp_path: Path) -> None:
    found = bench("-n", "1", "--results", tmp_path / "results", models=("/no/such/folder",), subprocess=True)
    assert found.ret != 0
    told = [
        line
        for line in found.outlines
        if line == "geometry-bench: There is no folder /no/such/folder; check the path given as model."
    ]
    assert len(told) == 1
    assert "Traceback" not in found.stdout.str()
    assert not (tmp_path / "results").exists()


def test_good_input_is_not_refused(bench: Bench, own: Path, tmp_path: Path) -> None:
    """The counterpart: the same call on an unbroken model measures and writes."""
    found = bench("-k", "test_tightest_pair", "--results", tmp_path / "results", models=(own,))
    assert found.ret in (0, 1)
    assert len(read_lines(tmp_path / "results")) == 1
