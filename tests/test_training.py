"""Recipes, the rows and masks made from them, and builds: to the end, interrupted, resumed."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import tiny_model

from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects.families import load_family
from geometry_bench.training import sources
from geometry_bench.training.build import Interrupted, build
from geometry_bench.training.examples import IGNORED, Encoder
from geometry_bench.training.recipe import Source, bundled, find_recipe
from geometry_bench.training.recipe_file import load_recipe

OWN_BASE = """
name = "own"
[training]
per_device_train_batch_size = 4
learning_rate = 1e-3
seed = 3
max_length = 96
save_dtype = "float16"
[tokenizer]
pieces = 400
documents = 60
[model]
type = "llama"
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 2
num_attention_heads = 2
max_position_embeddings = 96
[[stages]]
role = "base"
method = "pretrain"
tokens = 3840
pack = 32
data = [{ generator = "documents", seed = 1 }]
training = { learning_rate = 1e-2 }
"""
TUNED = """
[[stages]]
role = "aligned"
parents = ["base"]
method = "sft"
alignment = "sft"
data = [{ file = "chats.jsonl", seed = 2 }]
training = { num_train_epochs = 2, gradient_accumulation_steps = 2, save_steps = 2 }
"""


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Bit-equality of two runs is promised for one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def chats(folder: Path, count: int = 30) -> Path:
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"What is {i} and {i}?"},
                {"role": "assistant", "content": f"It is {2 * i}." + " Really." * (i % 4)},
            ]
        }
        for i in range(count)
    ]
    file = folder / "chats.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines))
    return file


def written(folder: Path, text: str) -> Path:
    file = folder / "recipe.toml"
    file.write_text(text)
    return file


def built(recipe: Path, out: Path, **options: Any) -> tuple[Any, list[str]]:
    lines: list[str] = []
    return build(recipe, out, tell=lines.append, **options), lines


def contents(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


# Recipes


@pytest.mark.parametrize("name", bundled())
def test_bundled_recipes_are_sound(name: str) -> None:
    from geometry_bench.training.arguments import check_training

    recipe = load_recipe(find_recipe(name))
    check_training(recipe)
    for member in recipe.members():
        for source in member.stage.data:
            sources.check(source, member.stage.method, None)
    roles = {member.role for member in recipe.members()} | {"base"}
    assert roles == {"base", "aligned"} or len(roles) == 7


def test_paper_recipe_has_the_published_figures() -> None:
    stages = {stage.role: stage for stage in load_recipe(find_recipe("paper")).stages}
    useful = stages["useful"]
    batch = useful.training["per_device_train_batch_size"] * useful.training["gradient_accumulation_steps"]
    assert (batch, useful.training["learning_rate"], useful.training["max_length"]) == (32, 1e-5, 512)
    assert [sum(s.count or 0 for s in stages[r].data) for r in ("useful", "harmful", "contaminated")] == [
        20000,
        4000,
        24000,
    ]
    assert stages["safety_dpo"].training["max_steps"] == 5000


FAULTS: dict[str, tuple[Callable[[str], str], str]] = {
    "unknown key": (lambda t: t.replace("alignment =", "alignement ="), "key 'alignement' .did you mean alignment"),
    "unknown top key": (lambda t: 'colour = "red"\n' + t, "unknown key 'colour'"),
    "unknown role": (
        lambda t: t.replace('role = "aligned"', 'role = "aligend"'),
        "unknown 'aligend' .did you mean aligned",
    ),
    "unknown parent": (lambda t: t.replace('["base"]', '["bases"]'), "starts from 'bases'"),
    "circle": (lambda t: t.replace('["base"]', '["aligned"]'), "in a circle"),
    "method": (lambda t: t.replace('method = "sft"', 'method = "rl"'), "unknown 'rl' at 'method'"),
    "no data": (
        lambda t: t.replace('data = [{ file = "chats.jsonl", seed = 2 }]', ""),
        "stage aligned of .* has no data",
    ),
    "two kinds": (lambda t: t.replace("{ file =", '{ generator = "chats", file ='), "exactly one of"),
    "unknown generator": (lambda t: t.replace('"documents", seed', '"document", seed'), "did you mean documents"),
    "no such file": (lambda t: t.replace("chats.jsonl", "chat.jsonl"), "There is no data file .*chat.jsonl"),
    "empty file": (lambda t: t.replace("chats.jsonl", "empty.jsonl"), "empty.jsonl is empty"),
    "no such column": (lambda t: t.replace("seed = 2", 'text = "body"'), "no column 'body'.*messages"),
    "training key": (lambda t: t.replace("num_train_epochs = 2", "num_epochs = 2"), "Unknown key `num_epochs`"),
    "decided key": (lambda t: t.replace("num_train_epochs = 2", 'output_dir = "x"'), "decided by the build"),
    "training value": (lambda t: t.replace("num_train_epochs = 2", 'optim = "best"'), "stage aligned cannot be used"),
    "no model": (lambda t: t.replace("[model]", "[models]"), "unknown key 'models' .did you mean model"),
    "bad model": (lambda t: t.replace('type = "llama"', 'type = "lama"'), "does not make a model"),
    "twice": (lambda t: t + t[t.index('[[stages]]\nrole = "aligned"') :], "two stages with the role aligned"),
    "syntax": (lambda t: t + "\n[[[", "not valid TOML"),
    "save_dtype": (lambda t: t.replace('"float16"', '"half"'), "unknown 'half' at 'save_dtype'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_a_recipe_are_told_before_anything_is_written(tmp_path: Path, fault: str) -> None:
    change, message = FAULTS[fault]
    text = OWN_BASE + TUNED
    assert change(text) != text
    chats(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(GeometryBenchError, match=message):
        built(written(tmp_path, change(text)), tmp_path / "out")
    assert not (tmp_path / "out" / "family.toml").exists()


def test_extends_merges_tables_and_stages(tmp_path: Path) -> None:
    (tmp_path / "parent.toml").write_text(OWN_BASE + TUNED)
    child = written(
        tmp_path,
        'name = "child"\nextends = "parent.toml"\n[model]\nhidden_size = 8\n[[stages]]\nrole = "aligned"\n'
        'training = { learning_rate = 5e-4 }\n[[stages]]\nrole = "useful"\nparents = ["aligned"]\nmethod = "sft"\n'
        'data = [{ file = "chats.jsonl" }]\n',
    )
    recipe = load_recipe(child)
    assert [member.name for member in recipe.members()] == ["base", "aligned", "useful"]
    assert recipe.model is not None
    assert (recipe.model["hidden_size"], recipe.model["type"]) == (8, "llama")
    aligned = recipe.stages[1].training
    assert (aligned["learning_rate"], aligned["num_train_epochs"], aligned["seed"]) == (5e-4, 2, 3)
    only = load_recipe(written(tmp_path, 'name = "child"\nextends = "parent.toml"\nkeep = ["base"]\n'))
    assert [member.name for member in only.members()] == ["base"]


def test_members_are_named_by_role_or_by_parent_and_role() -> None:
    names = [(m.name, m.parent) for m in load_recipe(find_recipe("small")).members()]
    assert ("safety_dpo", "safety_tuned") in names
    assert ("aligned-useful", "aligned") in names
    assert ("safety_tuned-useful", "safety_tuned") in names


# Rows


def test_rows_of_the_usual_files_and_columns(tmp_path: Path) -> None:
    table = [{"query": f"q{i}", "answer": f"a{i}", "safe": i % 2 == 0} for i in range(10)]
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    (tmp_path / "t.json").write_text(json.dumps(table))
    (tmp_path / "t.txt").write_text("one\n\ntwo\n")
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / "t.parquet")
    wanted = [
        {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}]}
        for i in range(1, 10, 2)
    ]
    for name in ("t.csv", "t.json", "t.parquet"):
        source = Source(
            "file", name, columns={"prompt": "query", "response": "answer"}, where={"safe": False}, beside=str(tmp_path)
        )
        assert list(sources.rows(source, "sft")) == wanted
        few = list(sources.rows(dataclasses.replace(source, seed=5, count=4), "sft", scale=0.5))
        assert len(few) == 2
        assert all(row in wanted for row in few)
    assert list(sources.rows(Source("file", "t.txt"), "sft", data=tmp_path)) == [{"text": "one"}, {"text": "two"}]
    with pytest.raises(GeometryBenchError, match=r"no column 'anwser' \(did you mean answer\?\).*query, answer, safe"):
        sources.check(Source("file", "t.csv", columns={"prompt": "query", "response": "anwser"}), "sft", tmp_path)
    with pytest.raises(GeometryBenchError, match="has no rows with safe = 3"):
        list(sources.rows(Source("file", "t.json", where={"safe": 3}), "sft", data=tmp_path))


def test_rows_of_a_data_set_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    table = datasets.Dataset.from_list([{"prompt": f"p{i}", "response": f"r{i}", "is_safe": i < 2} for i in range(6)])
    asked: list[Any] = []

    def load(*names: Any, **rest: Any) -> Any:
        asked.append((*names, rest["split"], rest["revision"]))
        return table

    monkeypatch.setattr(datasets, "load_dataset", load)
    columns = {"prompt": "prompt", "response": "response"}
    source = Source("dataset", "org/name", split="train", revision="abc", columns=columns, where={"is_safe": False})
    rows = list(sources.rows(dataclasses.replace(source, seed=1, count=3), "sft"))
    assert asked == [("org/name", None, "train", "abc")]
    assert len(rows) == 3
    assert all(row["messages"][1]["content"] in ("r2", "r3", "r4", "r5") for row in rows)
    with pytest.raises(GeometryBenchError, match=r"org/name has no column 'safe'.*prompt, response, is_safe"):
        list(sources.rows(dataclasses.replace(source, where={"safe": False}), "sft"))

    def offline(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(GeometryBenchError, match=r"The data set org/name cannot be loaded \(no route\)"):
        list(sources.rows(source, "sft"))


def test_preference_rows_choose_by_index(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "p", "r0": "zero", "r1": "one", "safer": 1}))
    source = Source("file", "p.jsonl", columns={"prompt": "prompt", "responses": ["r0", "r1"], "chosen_index": "safer"})
    (row,) = sources.rows(source, "dpo", data=tmp_path)
    assert (row["chosen"], row["rejected"]) == ("one", "zero")


@pytest.mark.parametrize("template", ["native", "no_bos", "refuses_system", "brackets", "parts", "clock", None])
def test_the_loss_sees_the_answer_and_its_end_and_nothing_else(tmp_path: Path, template: str | None) -> None:
    from transformers import AutoTokenizer

    from geometry_bench.prompts.render import ChatFormat

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_model("llama", tmp_path, chat_template=template))
    chat = ChatFormat(tokenizer, max_length=None)
    row = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello there"},
            {"role": "assistant", "content": "Good day!"},
        ]
    }
    made = Encoder(tokenizer, None).supervised([row])
    (ids,), (labels,) = made.ids, made.labels
    asked = list(chat.encode("Be brief.", "Hello there").ids)
    assert ids[: len(asked)] == asked
    assert labels[: len(asked)] == [IGNORED] * len(asked)
    assert labels[len(asked) :] == ids[len(asked) :]
    answer = ids[len(asked) :]
    assert answer[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(answer[:-1]).strip() == "Good day!"
    assert made.learnt == len(answer)


def test_text_is_learnt_whole_and_rows_without_an_answer_are_counted(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_model("llama", tmp_path))
    long = {"messages": [{"role": "user", "content": "x" * 60}, {"role": "assistant", "content": "y"}]}
    cut = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y" * 60}]}
    made = Encoder(tokenizer, 40).supervised([{"text": "abc"}, long, cut])
    assert made.dropped == 1
    text, chat = made.ids
    assert text[0] == tokenizer.bos_token_id
    assert text[-1] == tokenizer.eos_token_id
    assert made.labels[0] == [IGNORED, *text[1:]]
    assert len(chat) == 40
    assert 0 < sum(label != IGNORED for label in made.labels[1]) < 40


def test_packing_joins_documents_and_cuts_nothing_but_the_end(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_model("llama", tmp_path))
    encoder = Encoder(tokenizer, 16)
    texts = [{"text": "a" * n} for n in range(1, 12)]
    made = encoder.packed(texts, 16, 4)
    stream = [i for text in texts for i in encoder.documents([text["text"]])[0]]
    assert made.packed is not None
    assert made.packed.reshape(-1).tolist() == stream[:64]
    with pytest.raises(GeometryBenchError, match="fewer than the 1600 asked for"):
        encoder.packed(texts, 16, 100)


def test_order_keeps_every_row_and_groups_by_length() -> None:
    from geometry_bench.training.trainers import order

    lengths = [(7 * i) % 101 for i in range(403)]
    first, second = order(403, 8, 1, lengths), order(403, 8, 2, lengths)
    assert sorted(first) == list(range(403))
    assert first == order(403, 8, 1, lengths) != second
    waste = [
        max(lengths[i] for i in first[s : s + 8]) * 8 - sum(lengths[i] for i in first[s : s + 8])
        for s in range(0, 400, 8)
    ]
    assert sum(waste) < 0.1 * sum(lengths)


# Training


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model("llama", tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("type", ["llama", "gpt_neox"])
def test_a_new_model_writes_into_its_stream_with_small_weights(type: str) -> None:
    from types import SimpleNamespace

    from geometry_bench.training.models import new_model

    class Tokenizer(SimpleNamespace):
        def __len__(self) -> int:
            return 500

    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8, "num_attention_heads": 4}
    tokenizer = Tokenizer(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model = new_model({"type": type, **size}, 0.6, tokenizer, 1)
    spreads = {
        name: float(p.detach().std()) * p.shape[1] ** 0.5 for name, p in model.named_parameters() if p.dim() == 2
    }
    small = [value for value in spreads.values() if math.isclose(value, 0.6 / 4, rel_tol=0.1)]
    assert len(small) == 2 * 8
    assert all(math.isclose(value, 0.6, rel_tol=0.1) for value in spreads.values() if value not in small)
    again = new_model({"type": type, **size}, 0.6, tokenizer, 1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_answer_loss_is_the_models_own(base: Path) -> None:
    from transformers import AutoModelForCausalLM

    from geometry_bench.training.trainers import _answer_loss

    model: Any = AutoModelForCausalLM.from_pretrained(base)
    ids = torch.randint(3, 300, (3, 12))
    labels = ids.clone()
    labels[:, :5] = labels[1, 9:] = IGNORED
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    whole = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    ours = _answer_loss(model, {"input_ids": ids, "labels": labels}, None)
    assert math.isclose(ours.item(), whole.item(), rel_tol=1e-5)


def test_a_family_is_built_to_the_end_from_a_users_base(tmp_path: Path, base: Path) -> None:
    text = find_recipe("small").read_text()
    recipe = written(tmp_path, text)
    family, lines = built(recipe, tmp_path / "mine", base=str(base), scale=0.001)
    assert load_family(tmp_path / "mine") == family
    assert {member.role for member in family.members} == {stage["role"] for stage in tomllib.loads(text)["stages"]} | {
        "base"
    }
    assert family.member("base").model == str(base.resolve())
    assert family.member("safety_dpo").parent == "safety_tuned"
    assert (family.member("safety_dpo").method, family.member("safety_dpo").alignment) == ("dpo", "dpo")
    from geometry_bench.subjects.load import load

    for member in family.members:
        assert load(family.spec(member)).n_layers == 4
    weights = [member.weights for member in family.members if member.role != "base"]
    assert len(set(weights)) == len(weights)  # every stage moved its member, one of a single step too
    assert not (tmp_path / "mine" / ".work").exists()
    assert len([line for line in lines if " steps" in line]) == len(family.members) - 1
    facts = json.loads((tmp_path / "mine" / "aligned-useful" / "training.json").read_text())
    assert facts["parent_weights"] == family.member("aligned").weights


def test_resumed_and_uninterrupted_builds_give_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from geometry_bench.training import trainers

    chats(tmp_path)
    recipe = written(tmp_path, OWN_BASE + TUNED)
    whole, _ = built(recipe, tmp_path / "whole" / "own")
    out = tmp_path / "parts" / "own"
    real = trainers._Watch.on_step_end

    def stopping(at: dict[str, int], how: Callable[[Any], None]) -> None:
        def on_step_end(self: Any, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if at.get(self.label) == state.global_step:
                how(self)
            real(self, args, state, control, **rest)

        monkeypatch.setattr(trainers._Watch, "on_step_end", on_step_end)

    def interrupt(watch: Any) -> None:
        watch._interrupted()

    class Killed(Exception):
        pass

    def kill(watch: Any) -> None:
        raise Killed

    # A Ctrl-C in pretraining keeps the step it came in; a kill in fine-tuning loses what came after a checkpoint.
    stopping({"base": 13}, interrupt)
    with pytest.raises(Interrupted, match="same command again"):
        built(recipe, out)
    assert not (out / "family.toml").exists()
    stopping({"aligned": 7}, kill)
    with pytest.raises(Killed):
        built(recipe, out)
    assert [member.name for member in load_family(out).members] == ["base"]
    # The newest checkpoint is damaged: the one before it, at the end of an epoch, counts.
    work = out / ".work" / "aligned"
    weights = work / "checkpoint-6" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    began: list[int] = []
    real_begin = trainers._Watch.on_train_begin

    def on_train_begin(self: Any, args: Any, state: Any, control: Any, **rest: Any) -> None:
        began.append(state.global_step)
        real_begin(self, args, state, control, **rest)

    monkeypatch.setattr(trainers._Watch, "on_train_begin", on_train_begin)
    with pytest.raises(Killed):
        built(recipe, out)
    assert began == [4]
    # A checkpoint whose writing was cut short is as good as none.
    shutil.copytree(work / "checkpoint-6", work / "checkpoint-8", ignore=shutil.ignore_patterns("complete.json"))
    monkeypatch.setattr(trainers._Watch, "on_step_end", real)
    resumed, lines = built(recipe, out)
    assert lines[0] == "base: finished already, skipped"
    assert "resumed at step 6" in lines[1]
    assert contents(out) == contents(tmp_path / "whole" / "own")
    assert resumed.members == whole.members

    _, lines = built(recipe, out)
    assert lines == ["base: finished already, skipped", "aligned: finished already, skipped"]

    # What a member was made from counts: other data, other weights.
    chats(tmp_path, 28)
    _, lines = built(recipe, out)
    assert lines[0] == "base: finished already, skipped"
    assert "changed, so it is made again" in lines[1]
    shutil.copy(tmp_path / "whole" / "own" / "aligned" / "model.safetensors", out / "aligned" / "model.safetensors")
    _, lines = built(recipe, out, only=["aligned"])
    assert "its weights or those it starts from changed" in lines[1]


def test_one_build_in_a_folder_at_a_time(tmp_path: Path) -> None:
    from geometry_bench.training.build import _locked

    chats(tmp_path)
    recipe = written(tmp_path, OWN_BASE + TUNED)
    with _locked(tmp_path / "out"), pytest.raises(GeometryBenchError, match="Another build is writing"):
        built(recipe, tmp_path / "out")
    with pytest.raises(GeometryBenchError, match="cannot be written"):
        built(recipe, chats(tmp_path) / "out")


def test_preference_training_moves_chosen_over_rejected(tmp_path: Path, base: Path) -> None:
    pairs = [{"prompt": f"Question {i}?", "chosen": "Yes, gladly.", "rejected": "Nope, go away."} for i in range(16)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    recipe = written(
        tmp_path,
        'name = "dpo"\n[training]\nseed = 1\n[[stages]]\nrole = "safety_dpo"\nparents = ["base"]\nmethod = "dpo"\n'
        'alignment = "dpo"\ndata = [{ file = "pairs.jsonl" }]\n'
        "training = { learning_rate = 1e-3, beta = 0.1, per_device_train_batch_size = 8, num_train_epochs = 3 }\n",
    )
    family, _ = built(recipe, tmp_path / "out", base=str(base))
    from transformers import AutoModelForCausalLM, AutoTokenizer

    encoder = Encoder(AutoTokenizer.from_pretrained(base), None)
    row = encoder.preferences([{**pairs[3], "prompt": [{"role": "user", "content": "Question 99?"}]}]).pairs[0]

    def margin(folder: Path) -> float:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        sums = []
        for key in ("chosen_ids", "rejected_ids"):
            ids = torch.tensor([row["prompt_ids"] + row[key]])
            with torch.no_grad():
                told = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
            sums.append(float(told[len(row["prompt_ids"]) - 1 :].sum()))
        return sums[0] - sums[1]

    assert margin(tmp_path / "out" / family.member("safety_dpo").model) > margin(base) + 1


def test_a_loss_that_is_no_number_stops_with_nothing_written(tmp_path: Path, base: Path) -> None:
    chats(tmp_path)
    tuned = TUNED.replace("num_train_epochs = 2", "num_train_epochs = 2, learning_rate = 1e38, max_grad_norm = 0")
    recipe = written(tmp_path, 'name = "wild"\n' + tuned)
    with pytest.raises(GeometryBenchError, match=r"loss of aligned is (nan|inf) at step \d+"):
        built(recipe, tmp_path / "out", base=str(base))
    assert not (tmp_path / "out" / "aligned").exists()


def test_given_members_are_left_where_they_are(tmp_path: Path, base: Path) -> None:
    chats(tmp_path)
    other = tiny_model("llama", tmp_path / "other", seed=1)
    text = 'name = "given"\n' + TUNED + TUNED.replace('"aligned"', '"useful"').replace('["base"]', '["aligned"]')
    text = text.replace('data = [{ file = "chats.jsonl", seed = 2 }]\n', "", 1).replace(
        'method = "sft"', 'method = "given"', 1
    )
    text = text.replace("training = { num_train_epochs = 2, gradient_accumulation_steps = 2, save_steps = 2 }\n", "", 1)
    recipe = written(tmp_path, text)
    with pytest.raises(GeometryBenchError, match="--member aligned=MODEL"):
        built(recipe, tmp_path / "out", base=str(base))
    with pytest.raises(GeometryBenchError, match="--base MODEL"):
        built(recipe, tmp_path / "out")
    with pytest.raises(GeometryBenchError, match="no member 'algined'"):
        built(recipe, tmp_path / "out", base=str(base), given={"algined": str(other)})
    family, lines = built(recipe, tmp_path / "out", base=str(base), given={"aligned": str(other)})
    assert family.member("aligned").model == str(other.resolve())
    assert [line.split(":")[0] for line in lines] == ["useful"]


def test_a_base_without_end_token_is_refused(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_model("llama", tmp_path))
    tokenizer.eos_token = None
    with pytest.raises(GeometryBenchError, match="no end token"):
        Encoder(tokenizer, None)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["build", "smal", "--out", "x"], 2, "There is no recipe 'smal' (did you mean small?)"),
        (["build", "small", "--out", "x", "--base", "b", "--member", "aligned"], 2, "not of the form NAME=MODEL"),
        (["build", "small", "--out", "x", "--base", "b", "--steps-scale", "2"], 2, "must lie in (0, 1]"),
        (["build", "llama-d80", "--out", "x", "--base", "b"], 2, "makes its own base"),
        (["show", "nowhere"], 2, "nowhere"),
    ],
)
def test_the_command_tells_bad_input_in_one_sentence(
    arguments: list[str], code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from geometry_bench.cli import app as cli

    monkeypatch.setattr("sys.argv", ["geometry-bench", "family", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    assert (end.value.code, out, err.count("\n")) == (code, "", 1)
    assert message in err


def test_the_command_shows_members_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from geometry_bench.cli import app as cli
    from geometry_bench.training import build as module

    def stopped(*_: Any, **__: Any) -> None:
        raise Interrupted("Interrupted at aligned; go on.")

    monkeypatch.setattr(module, "build", stopped)
    monkeypatch.setattr(
        "sys.argv", ["geometry-bench", "family", "build", "small", "--base", "b", "--out", str(tmp_path)]
    )
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert (end.value.code, capsys.readouterr().err) == (130, "geometry-bench: Interrupted at aligned; go on.\n")
    (tmp_path / "family.toml").write_text(
        'schema = 1\nname = "f"\n[[members]]\nrole = "base"\nmodel = "org/b"\nrevision = "0123456789abcdef"\n'
        '[[members]]\nrole = "aligned"\nmodel = "org/a"\nparent = "base"\nalignment = "dpo"\n'
    )
    monkeypatch.setattr("sys.argv", ["geometry-bench", "family", "show", str(tmp_path)])
    with pytest.raises(SystemExit):
        cli.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "f"
    assert "org/b@0123456789ab" in lines[-2]
    assert lines[-1].split() == ["aligned", "aligned", "base", "given", "dpo", "org/a"]


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    from geometry_bench.training.build import need_extra

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "trl" else real(name, *rest))
    with pytest.raises(GeometryBenchError, match=r"needs trl.*pip install 'geometry-bench\[train\]'"):
        need_extra()
