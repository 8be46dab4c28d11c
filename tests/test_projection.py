"""Projected checkpoints: they add up, end where they must, load in transformers, and are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from models import tiny_model
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from geometry_bench.cli.app import app
from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects.families import Family, load_family
from geometry_bench.subjects.spec import SubjectSpec
from geometry_bench.updates import folder as folders
from geometry_bench.updates.checkpoint import open_checkpoint
from geometry_bench.updates.folder import REPORT, write_projection
from geometry_bench.updates.projection import Projection
from geometry_bench.updates.update import Update, compare, member_for, update_between

ZOO = Path("zoo/llama-d80")
WIDE, TALL, SQUARE = (f"model.layers.3.{name}.weight" for name in ("mlp.down_proj", "mlp.up_proj", "self_attn.q_proj"))
GAIN = "model.layers.3.input_layernorm.weight"


@pytest.fixture(scope="module")
def family() -> Family:
    return load_family(ZOO)


@pytest.fixture(scope="module")
def updates(family: Family) -> tuple[Update, Update]:
    """harmful − aligned, and aligned − base."""
    base, aligned = member_for(family, "base"), member_for(family, "aligned")
    harmful = member_for(family, "harmful", parent_role="aligned")
    return update_between(family, aligned, harmful), update_between(family, base, aligned)


def written(updates: tuple[Update, Update], out: Path, *plan: object, **more: object) -> dict[str, np.ndarray]:
    """Tensors of a projection written in float32, as float64."""
    write_projection(*updates, Projection(*plan, **more), out, dtype="float32")  # type: ignore[arg-type]
    return {name: tensor.astype(np.float64) for name, tensor in load_numpy(out / "model.safetensors").items()}


@pytest.mark.parametrize("basis", ["top-k", "random-k", "random"])
def test_a_projection_is_the_one_of_the_definition(basis: str, updates: tuple[Update, Update], tmp_path: Path) -> None:
    task, source = updates
    made = written(updates, tmp_path / "p", "parallel", basis, 0.25, seed=3)
    report = json.loads((tmp_path / "p" / REPORT).read_text())["tensors"]
    for name in (WIDE, TALL, SQUARE):
        inside = made[name] - task.start.rows(name)
        delta = task.delta(name).astype(np.float64)
        # Read off what was written: a projection of rank k that reproduces itself.
        left, sigma, _ = np.linalg.svd(inside, full_matrices=False)
        k = report[name]["k"]
        assert k == 20
        assert sigma[k] < 1e-5 * sigma[0]
        assert np.linalg.norm(left[:, :k] @ (left[:, :k].T @ delta) - inside) < 1e-5 * np.linalg.norm(delta)
        kept = (inside**2).sum() / (delta**2).sum()
        assert report[name]["energy_kept"] == pytest.approx(kept, rel=1e-4)
        if basis == "top-k":
            first = np.linalg.svd(source.delta(name).astype(np.float64), full_matrices=False)[0][:, :k]
            np.testing.assert_allclose(inside, first @ (first.T @ delta), atol=1e-6)
        elif basis == "random-k":
            vectors = np.linalg.svd(source.delta(name).astype(np.float64), full_matrices=False)[0]
            lengths = ((left[:, :k].T @ vectors) ** 2).sum(axis=0)
            assert np.sort(lengths)[-k:] == pytest.approx(1, abs=1e-4)
            assert lengths[:k].min() < 0.5  # not the first k
    axis, delta = source.delta(GAIN).astype(np.float64), task.delta(GAIN).astype(np.float64)
    if basis != "random":
        expected = (axis @ delta) / (axis @ axis) * axis
        np.testing.assert_allclose(made[GAIN] - task.start.rows(GAIN), expected, atol=1e-6)


@pytest.mark.parametrize("basis", ["top-k", "random-k", "random"])
@pytest.mark.parametrize("layers", [None, (2, 5)])
def test_parallel_and_orthogonal_add_up_to_the_fine_tune(
    basis: str, layers: tuple[int, ...] | None, updates: tuple[Update, Update], tmp_path: Path
) -> None:
    inside, outside = (
        written(updates, tmp_path / scheme, scheme, basis, 0.4, seed=1, layers=layers)
        for scheme in ("parallel", "orthogonal")
    )
    task, _ = updates
    assert set(inside) == set(task.names)
    for name in inside:
        start, end = (side.rows(name).astype(np.float64) for side in (task.start, task.end))
        rounding = 4 * np.spacing(np.float32(np.abs(inside[name]).max() + np.abs(end).max()))
        if layers is None or task.pairs[name].layer in layers:
            np.testing.assert_allclose(inside[name] + outside[name] - start, end, rtol=0, atol=rounding)
        else:
            np.testing.assert_array_equal(inside[name], end)
            np.testing.assert_array_equal(outside[name], end)


def test_nothing_kept_is_the_start_and_everything_the_fine_tune(updates: tuple[Update, Update], tmp_path: Path) -> None:
    task, _ = updates
    nothing = written(updates, tmp_path / "none", "parallel", "top-k", 0.0, rule="floor")
    everything = written(updates, tmp_path / "all", "parallel", "top-k", 1.0)
    little = written(updates, tmp_path / "one", "parallel", "top-k", 0.0)
    for name in nothing:
        np.testing.assert_array_equal(nothing[name], task.start.rows(name))
        shape = task.pairs[name].shape or ()
        if len(shape) == 2 and shape[0] <= shape[1]:
            np.testing.assert_allclose(everything[name], task.end.rows(name), rtol=0, atol=2e-7)
    assert np.linalg.matrix_rank(little[SQUARE] - task.start.rows(SQUARE), tol=1e-5) == 1


def test_a_projected_folder_loads_and_generates(updates: tuple[Update, Update], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    task, _ = updates
    out = tmp_path / "models" / "projected"
    write_projection(*updates, Projection("orthogonal", "top-k", 0.25), out)
    model, info = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(info.values())
    assert str(model.dtype) == "torch.float16"
    tokenizer = AutoTokenizer.from_pretrained(out)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_tensors="pt"
    )
    assert model.generate(**chat, max_new_tokens=5, do_sample=False).shape[1] > chat["input_ids"].shape[1]
    # As the start is stored: same names, shapes and dtype; opened by this package as any checkpoint.
    stored, start = load_file(out / "model.safetensors"), load_file(task.start.folder / "model.safetensors")
    assert {n: (t.shape, t.dtype) for n, t in stored.items()} == {n: (t.shape, t.dtype) for n, t in start.items()}
    assert open_checkpoint(SubjectSpec(str(out))).architecture == "LlamaForCausalLM"
    assert "outside a subspace" in (out / "README.md").read_text()
    assert [path.name for path in out.parent.iterdir()] == ["projected"]


def moved(source: Path, target: Path, amount: float, seed: int) -> Path:
    """A copy of a model whose weights have all moved at random."""
    import torch

    shutil.copytree(source, target)
    torch.manual_seed(seed)
    for file in target.glob("*.safetensors"):
        save_file({n: t + amount * torch.randn_like(t) for n, t in load_file(file).items()}, file, {"format": "pt"})
    return target


def test_sharded_and_whole_give_one_model(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    made = []
    for kind, limit in (("whole", "1GB"), ("parts", "40KB")):
        base = tiny_model("llama", tmp_path, name=f"{kind}-base", max_shard_size=limit)
        aligned = tiny_model("llama", tmp_path, name=f"{kind}-aligned", max_shard_size=limit, seed=1)
        tuned = tiny_model("llama", tmp_path, name=f"{kind}-tuned", max_shard_size=limit, seed=2)
        base, aligned, tuned = (open_checkpoint(SubjectSpec(str(place))) for place in (base, aligned, tuned))
        out = tmp_path / kind
        write_projection(compare(aligned, tuned), compare(base, aligned), Projection("parallel", "top-k", 0.3), out)
        assert sorted(f.name for f in out.glob("*.safetensors")) == sorted(
            f.name for f in aligned.folder.glob("*.safetensors")
        )
        made.append(AutoModelForCausalLM.from_pretrained(out).state_dict())
    assert made[0].keys() == made[1].keys()
    assert all((made[0][name] == made[1][name]).all() for name in made[0])


# Faults


def empty(folder: Path) -> bool:
    return not folder.exists() or not list(folder.iterdir())


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            r"cannot be written \(No space left on device\): nothing is",
        ),
        (KeyboardInterrupt("stopped"), "stopped"),
    ],
    ids=["full disk", "Ctrl-C"],
)
def test_what_cannot_be_finished_leaves_nothing(
    fault: BaseException, told: str, updates: tuple[Update, Update], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, round_to, left = tmp_path / "there", folders.from_float32, [30]

    def failing(values: np.ndarray, dtype: str) -> np.ndarray:
        left[0] -= 1
        if left[0] == 0:
            assert (next(place.iterdir()) / "model.safetensors").is_file()
            raise fault
        return round_to(values, dtype)

    monkeypatch.setattr(folders, "from_float32", failing)
    with pytest.raises((GeometryBenchError, KeyboardInterrupt), match=told):
        write_projection(*updates, Projection("parallel", "top-k", 0.25), place / "out")
    assert left[0] == 0
    assert empty(tmp_path)  # without the parent made for it


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a process could catch")
def test_sigterm_ends_the_command_as_ctrl_c_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    round_to, missed = folders.from_float32, []

    def ended(values: np.ndarray, dtype: str) -> np.ndarray:
        assert list((tmp_path / "new").iterdir())
        os.kill(os.getpid(), signal.SIGTERM)
        return round_to(values, dtype)

    def own(number: int, frame: object) -> None:
        missed.append(number)

    monkeypatch.setattr(folders, "from_float32", ended)
    before = signal.signal(signal.SIGTERM, own)
    try:
        done = CliRunner().invoke(app, projecting(ZOO, tmp_path / "new" / "p"))
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (done.exit_code, missed) == (130, [])
    assert "Interrupted; nothing is left of the folder" in done.output
    assert empty(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be asked for there")
def test_what_killed_processes_left_is_cleared(updates: tuple[Update, Update], tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (f".p.{dead.pid}.tmp", f".p.{os.getpid()}.tmp", f".p.{os.getppid()}.tmp", f".q.{dead.pid}.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("")
    write_projection(*updates, Projection("parallel", "top-k", 0.25), tmp_path / "p")
    assert {path.name for path in tmp_path.iterdir()} == {"p", f".p.{os.getppid()}.tmp", f".q.{dead.pid}.tmp"}


def test_too_little_space_is_told_before_anything_is_read(
    updates: tuple[Update, Update], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(GeometryBenchError, match=r"needs 0\.002 GB and there are 0\.000 GB free"):
        write_projection(*updates, Projection("parallel", "top-k", 0.25), tmp_path / "out")
    assert empty(tmp_path)


def test_zero_updates_existing_folders_and_wrong_plans_are_told(updates: tuple[Update, Update], tmp_path: Path) -> None:
    task, source = updates
    plan, out = Projection("parallel", "top-k", 0.25), tmp_path / "out"
    same = compare(task.start, task.start)
    with pytest.raises(GeometryBenchError, match="aligned equals zoo/llama-d80/aligned in every tensor to project"):
        write_projection(task, same, plan, out)
    with pytest.raises(GeometryBenchError, match="there is no update to project"):
        write_projection(same, source, plan, out)
    with pytest.raises(GeometryBenchError, match="has no layer 8; it has layers 0 to 7"):
        write_projection(task, source, Projection("parallel", "top-k", 0.25, layers=(7, 8)), out)
    with pytest.raises(GeometryBenchError, match="between 0 and 1"):
        Projection("parallel", "top-k", 1.5)
    assert empty(tmp_path)
    out.mkdir()
    with pytest.raises(GeometryBenchError, match="exists; choose a folder that does not"):
        write_projection(task, source, plan, out)
    assert empty(out)


def test_a_tensor_that_the_subspace_lacks_is_kept_or_dropped_whole(tmp_path: Path) -> None:
    base = tiny_model("llama", tmp_path, name="base")
    aligned, tuned = moved(base, tmp_path / "aligned", 0.1, 1), moved(base, tmp_path / "tuned", 0.1, 2)
    name = "model.layers.1.mlp.up_proj.weight"
    kept = load_file(aligned / "model.safetensors") | {name: load_file(base / "model.safetensors")[name]}
    save_file(kept, aligned / "model.safetensors", {"format": "pt"})
    start, end, root = (open_checkpoint(SubjectSpec(str(place))) for place in (aligned, tuned, base))
    for scheme, expected in (("parallel", start), ("orthogonal", end)):
        out = tmp_path / scheme
        outcomes = write_projection(compare(start, end), compare(root, start), Projection(scheme, "top-k", 0.5), out)
        assert outcomes[name].outcome == "without basis"
        np.testing.assert_array_equal(load_numpy(out / "model.safetensors")[name], expected.rows(name))


# The command line


def projecting(family: Path, out: Path, *more: str, task: str = "harmful") -> list[str]:
    """Arguments of a projection by the command."""
    return ["project", "--family", str(family), "--task", task, "--scheme", "parallel", "--out", str(out), *more]


def declared(where: Path, **members: tuple[str, str]) -> Path:
    """A family of the zoo's base and members (role: place, parent)."""
    text = 'schema = 1\nname = "f"\n[[members]]\nrole = "base"\nmodel = "zoo/llama-d80/base"\n'
    for role, (place, parent) in members.items():
        text += f'[[members]]\nrole = "{role}"\nmodel = "{place}"\nparent = "{parent}"\n'
    (where / "family.toml").write_text(text)
    return where


@pytest.fixture(scope="module")
def refused() -> Callable[[list[str]], str]:
    """The sentence that a command is refused with."""

    def refuse(command: list[str]) -> str:
        error = CliRunner().invoke(app, command).exception
        assert isinstance(error, GeometryBenchError)
        return str(error)

    return refuse


def test_layers_beyond_the_model_are_refused_however_many(tmp_path: Path, refused: Callable[[list[str]], str]) -> None:
    for layers, first in (("0-999999999999", 8), ("99999999999-999999999999", 99999999999), ("1,7-8,3", 8)):
        told = refused(projecting(ZOO, tmp_path / "new" / "p", f"--layers={layers}"))
        assert told.endswith(f"has no layer {first}; it has layers 0 to 7.")
    assert empty(tmp_path)


def test_tensors_that_could_not_be_projected_are_named(tmp_path: Path) -> None:
    aligned, tuned = (Path("fixtures/zoo/llama-d80") / name for name in ("aligned", "aligned-harmful"))
    (tmp_path / "tuned").mkdir()
    shutil.copyfile(tuned / "config.json", tmp_path / "tuned" / "config.json")  # and no tokenizer
    tensors = load_file(tuned / "model.safetensors")
    lost = sorted(name for name in tensors if "layers.6" in name)[:7]
    more = {"model.layers.8.mlp.up_proj.weight": tensors[lost[0]].clone()}
    kept = {name: tensor for name, tensor in tensors.items() if name not in lost}
    save_file(kept, tmp_path / "tuned" / "model.safetensors")
    family = declared(tmp_path, aligned=(str(aligned.resolve()), "base"), harmful=("tuned", "aligned"))
    done = CliRunner().invoke(app, projecting(family, tmp_path / "p"))
    assert done.exit_code == 0, done.output
    assert "67 of 74 tensors projected" in done.output
    lines = done.output.splitlines()
    at = [place for place, line in enumerate(lines) if "left as it was (missing in end: f/harmful has no such" in line]
    assert [lines[place].split(":")[0].strip() for place in at] == lost[:5]
    assert lines[at[-1] + 1].startswith("  and 2 more;")
    # One that only the fine-tune has, and none of those that --layers leaves alone.
    save_file(tensors | more, tmp_path / "tuned" / "model.safetensors")
    done = CliRunner().invoke(app, projecting(family, tmp_path / "q", "--layers=2"))
    assert done.output.splitlines()[-2].endswith("9 of 74 tensors projected")
    told = "  model.layers.8.mlp.up_proj.weight: not written (missing in start: f/aligned has no such tensor)"
    assert done.output.splitlines()[-1] == told


def test_a_start_tuned_by_dpo(tmp_path: Path, refused: Callable[[list[str]], str]) -> None:
    told = refused(projecting(ZOO, tmp_path / "p", "--start=safety_dpo"))
    assert "no member of role harmful that starts from one of role safety_dpo" in told
    family = declared(
        tmp_path,
        safety_tuned=("zoo/llama-d80/safety_tuned", "base"),
        safety_dpo=("zoo/llama-d80/safety_dpo", "safety_tuned"),
        harmful=("zoo/llama-d80/safety_tuned-harmful", "safety_dpo"),
    )
    done = CliRunner().invoke(app, projecting(family, tmp_path / "p", "--start=safety_dpo"))
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "p" / REPORT).read_text())
    assert report["start"] == "f/safety_dpo"
    assert report["subspace"] == ["f/safety_dpo", "f/safety_tuned"]


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GEOMETRY_BENCH_CACHE", str(tmp_path / "file"))
    shown = CliRunner().invoke(app, ["updates", "--family", str(ZOO)])
    assert shown.exit_code == 0, shown.output
    warned = [line for line in shown.stderr.splitlines() if "cannot be kept" in line]
    assert len(warned) == 1
    assert warned[0].startswith("geometry-bench: warning: Decompositions cannot be kept in")


def test_the_commands(tmp_path: Path) -> None:
    run = CliRunner()
    shown = run.invoke(app, ["updates", "--family", str(ZOO), "--to", "aligned-harmful", "--no-rank"])
    assert shown.exit_code == 0, shown.output
    assert "74 of 75 tensors differ between zoo/llama-d80/aligned and zoo/llama-d80/aligned-harmful" in shown.output
    out = tmp_path / "p"
    command = ["project", "--family", str(ZOO), "--task", "useful", "--scheme", "parallel", "--out", str(out)]
    done = run.invoke(
        app, [*command, "--start", "safety_tuned", "--layers", "1,3-4", "--basis", "random-k", "--rho", "0.5"]
    )
    assert done.exit_code == 0, done.output
    assert "27 of 74 tensors projected" in done.output
    report = json.loads((out / REPORT).read_text())
    assert report["start"] == "zoo/llama-d80/safety_tuned"
    assert report["layers"] == [1, 3, 4]
    projected = [name for name, one in report["tensors"].items() if one["outcome"] == "projected"]
    assert {name.split(".")[2] for name in projected} == {"1", "3", "4"}
    again = run.invoke(app, command)
    assert isinstance(again.exception, GeometryBenchError)
    for layers in ("x", "4-2", "-1"):
        wrong = run.invoke(app, [*command[:-1], str(tmp_path / "q"), f"--layers={layers}"])
        assert "names no layers" in str(wrong.exception)
