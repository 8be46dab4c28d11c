"""lm-eval's tasks on the project's subjects: the same numbers as its own model class, under interventions, projected."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Shell

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from geometry_bench.behavior.generation import Settings, generate
from geometry_bench.behavior.harness.evaluation import evaluate
from geometry_bench.behavior.harness.model import SubjectLM
from geometry_bench.behavior.harness.tasks import load_task
from geometry_bench.behavior.interventions import Ablate
from geometry_bench.behavior.projected import projected
from geometry_bench.behavior.store import Answers
from geometry_bench.behavior.utility import right
from geometry_bench.errors import GeometryBenchError
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.run.bench import Bench, Output
from geometry_bench.run.describe import opening
from geometry_bench.run.request import Request, chosen_claims
from geometry_bench.run.request import Settings as RunSettings
from geometry_bench.subjects.families import load_family
from geometry_bench.subjects.load import load
from geometry_bench.subjects.spec import SubjectSpec
from geometry_bench.subjects.subject import Subject
from geometry_bench.updates.folder import write_projection
from geometry_bench.updates.projection import Projection
from geometry_bench.updates.update import member_for, update_between

SUMS = [(first, second) for first in (3, 14, 25) for second in (4, 12)]
COLOURS = ("red", "light blue", "green")


def declared(folder: Path, name: str, rows: list[dict[str, Any]], **config: Any) -> str:
    """A task of one's own: a YAML file and its documents."""
    data, file = folder / f"{name}.jsonl", folder / f"{name}.yaml"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    given = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
    file.write_text(json.dumps({**given, "test_split": "test", "metadata": {"version": 2.0}, **config}))
    return str(file)


def colours(folder: Path, name: str = "colours", count: int = 9, **more: Any) -> str:
    rows = [{"question": f"What colour is thing {n}?", "choices": COLOURS, "answer": n % 3} for n in range(count)]
    config = {"doc_to_text": "{{question}}\nAnswer:", "doc_to_choice": "{{choices}}", "doc_to_target": "{{answer}}"}
    metric = [{"metric": "acc"}]
    return declared(folder, name, rows, **{**config, "output_type": "multiple_choice", "metric_list": metric, **more})


def sums(folder: Path, name: str = "sums", **more: Any) -> str:
    rows = [{"question": f"Calculate {a} + {b}.", "answer": str(a + b)} for a, b in SUMS]
    last = {"function": "regex", "group_select": -1, "regex_pattern": "([0-9]+)"}
    config = {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 48, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
        "filter_list": [{"name": "last", "filter": [last, {"function": "take_first"}]}],
    }
    return declared(folder, name, rows, **{**config, **more})


@pytest.fixture(scope="module")
def aligned() -> Subject:
    return load(SubjectSpec("zoo/llama-d80/aligned"))


# Scores and answers


def instances(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=one, idx=0) for one in arguments]


@pytest.mark.parametrize("name", ["zoo/llama-d64/aligned", "zoo/neox-d64/aligned"])
def test_a_subject_scores_and_says_what_lm_evals_own_class_does(name: str) -> None:
    subject = load(SubjectSpec(name))
    theirs, ours = HFLM(subject.model, tokenizer=copy.deepcopy(subject.tokenizer), batch_size=3), SubjectLM(subject)
    assert ours.max_length == theirs.max_length
    assert ours.prefix_token_id == theirs.prefix_token_id
    opened = f"{subject.tokenizer.decode([ours.prefix_token_id])}How"
    contexts = ("What is this?\nAnswer:", "", "It is ", opened, "thing " * 700)
    pairs = [(context, end) for context in contexts for end in (" red", " light blue", " A", "B")]
    assert len(ours.tok_encode(contexts[-1])) > ours.max_length
    found = ours.loglikelihood(instances("loglikelihood", *pairs))
    expected = theirs.loglikelihood(instances("loglikelihood", *pairs), disable_tqdm=True)
    assert [one for one, _ in found] == pytest.approx([one for one, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert ours.shortened == 4
    assert SubjectLM(subject, batch_size=1).loglikelihood(instances("loglikelihood", *pairs)) == [
        (pytest.approx(value, abs=1e-4), greedy) for value, greedy in found
    ]
    whole = instances("loglikelihood_rolling", *((" How do I bake a cake?" * n,) for n in (1, 3, 90)))
    rolling = theirs.loglikelihood_rolling(whole, disable_tqdm=True)
    assert ours.loglikelihood_rolling(whole) == pytest.approx(rolling, rel=1e-6, abs=1e-4)
    asked = [
        (text, {"until": [".", "="], "max_gen_toks": 20}) for text in ("Calculate 3 + 4.", "How do I bake a cake?")
    ]
    said = ours.generate_until(instances("generate_until", *asked))
    assert said == theirs.generate_until(instances("generate_until", *asked), disable_tqdm=True)
    assert not any("=" in one or "." in one for one in said)


def test_an_answer_ends_at_a_text_and_does_not_hold_it(aligned: Subject, tmp_path: Path) -> None:
    prompts = [aligned.chat.encode("", text).ids for text in ("Calculate 3 + 4.", "How do I bake a cake?")]
    whole = generate(aligned, prompts, Settings(40), progress=False)
    stopped = generate(aligned, prompts, Settings(40, stop=("so", " I")), progress=False, store=Answers(tmp_path))
    for one, other in zip(stopped, whole, strict=True):
        assert one.text == min((other.text.partition(stop)[0] for stop in ("so", " I")), key=len)
        assert one.ids == other.ids[: len(one.ids)]
    assert stopped[0].finish == "end"
    again = generate(aligned, prompts, Settings(40, stop=("so", " I")), progress=False, store=Answers(tmp_path))
    assert again == stopped
    with pytest.raises(GeometryBenchError, match="an empty text"):
        Settings(stop=("",))


# Tasks


def test_a_task_runs_from_end_to_end(aligned: Subject, tmp_path: Path) -> None:
    task = load_task(sums(tmp_path))
    found = evaluate(aligned, task, chat=True, progress=False)
    prompts = [aligned.chat.encode("", f"Calculate {a} + {b}.").ids for a, b in SUMS]
    said = generate(aligned, prompts, Settings(48), progress=False)
    assert found.right.tolist() == [right(one.text, a + b) for one, (a, b) in zip(said, SUMS, strict=True)]
    assert 0 < found.accuracy < 1
    assert (found.metric, found.means) == ("exact_match, last", {"sums/exact_match,last": found.accuracy})
    facts = task.facts()
    assert (facts["name"], facts["version"], facts["documents"], facts["shots"]) == ("sums", "2.0", len(SUMS), "0")
    assert facts["harness"].startswith("lm-eval 0.")
    choice = evaluate(aligned, load_task(colours(tmp_path), 5), progress=False)
    assert len(choice.right) == 5
    assert set(choice.right) <= {0.0, 1.0}
    before = np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    assert evaluate(aligned, load_task(colours(tmp_path), 5), progress=False).right.tolist() == choice.right.tolist()
    assert np.random.get_state()[1].tolist() == before  # type: ignore[union-attr]


def test_a_group_is_all_documents_of_its_tasks_and_each_task_a_topic(
    aligned: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [colours(tmp_path, f"part{n}", 5 + n) for n in range(4)]
    (tmp_path / "all.yaml").write_text(json.dumps({"group": "all", "task": [f"part{n}" for n in range(4)]}))
    own = TaskManager(include_defaults=False, include_path=str(tmp_path))
    monkeypatch.setattr("geometry_bench.behavior.harness.tasks._manager", lambda: own)
    task = load_task("all", 6)
    assert [task.topics.count(topic) for topic in dict.fromkeys(task.topics)] == [5, 6, 6, 6]
    alone = [evaluate(aligned, load_task(file, 6), progress=False).right for file in files]
    assert evaluate(aligned, task, progress=False).right.tolist() == np.concatenate(alone).tolist()
    assert len(set(load_task(files[0]).topics)) == 5


def test_examples_are_the_same_each_time_and_part_of_what_a_task_is(aligned: Subject, tmp_path: Path) -> None:
    shots = load_task(colours(tmp_path, "shots", num_fewshot=2, fewshot_split="test"))
    first, second = (evaluate(aligned, shots, progress=False) for _ in range(2))
    assert first.right.tolist() == second.right.tolist()
    alike, hashes = tmp_path / "other", {}
    alike.mkdir()
    made: dict[str, Callable[[Path], str]] = {
        "shots": lambda folder: colours(folder, "shots", num_fewshot=2, fewshot_split="test"),
        "fewer": lambda folder: colours(folder, "shots", num_fewshot=1, fewshot_split="test"),
        "asked": lambda folder: colours(folder, "shots", 10, num_fewshot=2, fewshot_split="test"),
    }
    for name, make in made.items():
        load_task.cache_clear()
        hashes[name] = load_task(make(alike)).hash
    assert hashes["shots"] == shots.hash  # another folder is no other task
    assert len({*hashes.values(), load_task(made["shots"](tmp_path), 4).hash}) == 4


def test_tasks_run_under_interventions_and_on_projected_weights(aligned: Subject, tmp_path: Path) -> None:
    task = load_task(colours(tmp_path))
    direction = np.random.default_rng(0).standard_normal(aligned.width)
    request = instances("loglikelihood", *((f"thing {n} is", " red") for n in range(4)))
    plain = SubjectLM(aligned).loglikelihood(request)
    changed = SubjectLM(aligned, [Ablate(direction)]).loglikelihood(request)
    assert all(abs(a - b) > 1e-3 for (a, _), (b, _) in zip(plain, changed, strict=True))
    assert SubjectLM(aligned).loglikelihood(request) == plain
    zoo = load_family(Path("zoo/llama-d80"))
    start, base = member_for(zoo, "aligned"), member_for(zoo, "base")
    update = update_between(zoo, start, member_for(zoo, "harmful", parent_role="aligned"))
    plan, alignment = Projection("parallel", "top-k", 0.5), update_between(zoo, base, start)
    write_projection(update, alignment, plan, tmp_path / "p", dtype="float32")
    written = load(SubjectSpec(str(tmp_path / "p")))
    with projected(aligned, update, alignment, plan):
        inside = SubjectLM(aligned).loglikelihood(request)
        hits = evaluate(aligned, task, progress=False).right
    assert inside == SubjectLM(written).loglikelihood(request) != plain
    assert hits.tolist() == evaluate(written, task, progress=False).right.tolist()
    wrapped = Subject.wrap(written.model, written.tokenizer)
    assert SubjectLM(wrapped).loglikelihood(request) == inside


def test_data_of_a_known_task_come_from_files(tmp_path: Path) -> None:
    rows = [{"question": f"What is {n} + {n}?", "answer": f"It is.\n#### {2 * n}"} for n in range(1, 8)]
    for name in ("test", "train"):
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    files = f"gsm8k:test={tmp_path / 'test.jsonl'},train={tmp_path / 'train.jsonl'}"
    task = load_task(files, 4)
    assert (len(task), task.facts()["shots"], task.name) == (4, "5", "gsm8k")
    with pytest.raises(
        GeometryBenchError, match=r"reads the splits test and train, .* gives no train: write it as gsm8k:"
    ):
        load_task(f"gsm8k:{tmp_path / 'test.jsonl'}")


# Faults


def faulty(folder: Path) -> dict[str, tuple[str, str]]:
    (folder / "broken.yaml").write_text("task: [")
    perplexity = {"output_type": "loglikelihood_rolling", "metric_list": [{"metric": "word_perplexity"}]}
    return {
        "unknown": ("gsm9k", r"no task 'gsm9k' \(did you mean gsm8k\?\)"),
        "no file": ("nothing.yaml", "nothing.yaml does not exist"),
        "no data": ("gsm8k:test=none.jsonl,train=none.jsonl", "none.jsonl of the task gsm8k does not exist"),
        "several": ("mmlu:all.jsonl", "mmlu is several tasks"),
        "empty": (":x", "names no task"),
        "broken": (str(folder / "broken.yaml"), r"cannot be loaded \(.*\); check its declaration"),
        "data twice": (f"{colours(folder)}:x.jsonl", "names its data itself"),
        "code": (colours(folder, "code", unsafe_code=True), "runs code that the model writes"),
        "texts": (sums(folder, "texts", **perplexity), "measures word_perplexity, and no accuracy"),
    }


@pytest.mark.parametrize(
    "fault", ["unknown", "no file", "no data", "several", "empty", "broken", "data twice", "code", "texts"]
)
def test_a_task_that_cannot_be_run_gets_a_sentence(fault: str, tmp_path: Path) -> None:
    spec, sentence = faulty(tmp_path)[fault]
    with pytest.raises(GeometryBenchError, match=sentence):
        load_task(spec)


def test_without_the_hub_the_sentence_says_how_to_give_files(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*_: Any, **__: Any) -> Any:
        raise ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(GeometryBenchError, match=r"Couldn't reach .*; go online, .* gsm8k:test=FILE,train=FILE"):
        load_task("gsm8k")


def test_what_a_model_cannot_do_gets_a_sentence(aligned: Subject, tmp_path: Path) -> None:
    endless = {"generation_kwargs": {"max_gen_toks": 5000}}
    with pytest.raises(GeometryBenchError, match="asks for 5000 tokens, and zoo/llama-d80/aligned has 512 positions"):
        evaluate(aligned, load_task(sums(tmp_path, "endless", **endless)), progress=False)
    beams = {"generation_kwargs": {"num_beams": 4}}
    with pytest.raises(GeometryBenchError, match="generation with num_beams"):
        evaluate(aligned, load_task(sums(tmp_path, "beams", **beams)), progress=False)


# The options


def test_the_options_go_together_and_a_run_says_what_it_asks(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    spec, twin = colours(tmp_path), colours(tmp_path / "other")
    claim = ("--claim", "weights.general_ability", "--weights", "zoo/llama-d80")
    stray = ("--claim", "gate.answers")
    for given, sentence in (
        (("--evaluate", spec), "--evaluate goes with --answers"),
        (("--answers", "--limit", "5"), "--limit goes with --evaluate"),
        (("--answers", "--evaluate", spec, "--limit", "2"), "colours asks 2 documents: at least 4 are needed"),
        (("--answers", "--evaluate", "nothing.yaml"), "nothing.yaml does not exist"),
        (("--answers", "--evaluate", spec, "--evaluate", twin), "Two tasks of the run are called colours"),
        ((*stray, "--answers", "--evaluate", spec), "No claim of this run asks the tasks"),
    ):
        code, _, errors = shell("run", *(() if given[:2] == stray else claim), *given)
        assert (code, sentence in errors) == (2, True), errors
    settings = RunSettings(requests=RequestSettings(8, tasks=(spec,), limit=5))
    request = Request(
        families=(load_family(Path("zoo/llama-d80")),), claims=chosen_claims(claim[1:2]), settings=settings
    )
    assert any("; tasks colours (5 documents)" in line for line in opening(Bench(request, Output())))
