"""Tasks of lm-eval by name or file, with their data from the Hub or from files, and what decides their result."""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from geometry_bench.checked import did_you_mean
from geometry_bench.errors import GeometryBenchError
from geometry_bench.hub import network_errors
from geometry_bench.storage import digest_file, digest_lines
from geometry_bench.subjects.measuring import random_states

SEED = 1234
"""What lm-eval draws examples with unless it is told otherwise."""

ACCURACIES = ("acc", "exact_match")
"""What tells for each document whether it is right; of several that a task measures, the first."""

_READERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
_SPEC = re.compile(r"(?P<task>.+?\.ya?ml|[^:=]+)(?::(?P<data>.+))?")
_FEWEST_TOPICS = 4
_TALK = ("lm_eval", "datasets", "huggingface_hub")
"""Loggers whose advice is left out."""


@dataclass(frozen=True)
class Task:
    """A task, or all tasks of a group, loaded; ``members`` are lm-eval's own, by name.

    ``limit`` is how many documents of each are asked, None for all. ``hash`` is the sha256 of configurations, documents and
    examples, in which no folder of this machine appears.
    """

    name: str
    members: Mapping[str, Any]
    limit: int | None
    hash: str

    @cached_property
    def topics(self) -> list[str]:
        """One label a document, for resampling: the member that it is of, or its own where members are few."""
        asked = [(member, place) for member, one in self.members.items() for place in range(_count(one, self.limit))]
        few = len(self.members) < _FEWEST_TOPICS
        return [f"{member} {place}" if few else member for member, place in asked]

    def __len__(self) -> int:
        return len(self.topics)

    def facts(self) -> dict[str, Any]:
        """What a record keeps of the task."""
        of = self.members.values()
        return {
            "name": self.name,
            "harness": f"lm-eval {version('lm_eval')}",
            "version": ", ".join(dict.fromkeys(str(one.VERSION) for one in of)),
            "hash": self.hash,
            "documents": len(self),
            "shots": ", ".join(dict.fromkeys(str(one.config.num_fewshot) for one in of)),
        }


@cache
def load_task(spec: str, limit: int | None = None) -> Task:
    """A task, loaded with its data.

    ``spec`` is a name of a task or group of lm-eval (``gsm8k``, ``mmlu``), a YAML file that declares one, or ``TASK:FILE``
    (json, jsonl, csv, parquet) where the task's documents are in a file; ``TASK:SPLIT=FILE,SPLIT=FILE`` where it needs
    several splits. ``limit``: the first so many documents of each task.

    Raises GeometryBenchError where lm-eval is not installed, there is no such task or file, the data cannot be had, or the
    task needs pictures, runs code or measures no accuracy.
    """
    try:
        import lm_eval.tasks  # noqa: F401
    except ImportError:
        raise GeometryBenchError(
            f"The task {spec} needs lm-eval, which is not installed; run: pip install 'geometry-bench[eval]'."
        ) from None
    found = _SPEC.fullmatch(spec)
    if found is None:
        raise GeometryBenchError(f"{spec!r} names no task: write a task's name, TASK:FILE, or a YAML file.")
    name, data = found["task"], found["data"]
    with calm():
        members = _from_file(Path(name), data) if name.endswith((".yaml", ".yml")) else _by_name(name, data)
    for member, one in members.items():
        _refuse(member, one)
        if one.config.num_fewshot is None:
            one.set_config("num_fewshot", 0)
    shown = next(iter(members)) if name.endswith((".yaml", ".yml")) and len(members) == 1 else Path(name).name
    return Task(shown, members, limit, digest_lines(_lines(members, limit)))


@contextmanager
def calm() -> Iterator[None]:
    """Within it, lm-eval and datasets log and show nothing but errors, and draws are seeded; all is put back afterwards."""
    import datasets
    import lm_eval.api.task as tasks

    bar, shown = tasks.tqdm, datasets.is_progress_bar_enabled()
    with ExitStack() as stack:
        for restore in random_states():
            stack.callback(restore)
        for logger in map(logging.getLogger, _TALK):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        stack.callback(setattr, tasks, "tqdm", bar)  # building prompts has a bar that no setting turns off
        if shown:
            stack.callback(datasets.enable_progress_bars)
        tasks.tqdm = lambda items, **_: items
        datasets.disable_progress_bars()
        random.seed(0)
        np.random.seed(SEED)
        yield


@cache
def _manager() -> Any:
    """All tasks that lm-eval knows by name; reading their files takes some seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _by_name(name: str, data: str | None) -> dict[str, Any]:
    manager = _manager()
    entry = manager.task_index.get(name)
    if entry is None:
        hint = did_you_mean(name, manager.all_tasks)
        raise GeometryBenchError(
            f"lm-eval has no task {name!r}{hint}; `lm-eval ls tasks` lists all, and a task of your own is a YAML file."
        )
    wanted: Any = name
    needed = [] if entry.cfg is None else _splits(entry.cfg)
    if data is not None:
        if entry.cfg is None or "task" not in entry.cfg or not isinstance(entry.cfg["task"], str):
            raise GeometryBenchError(
                f"{name} is several tasks of lm-eval, which one file cannot serve: name them one by one, each as TASK:FILE."
            )
        wanted = {"group": name, "task": [{"task": name, **_overrides(name, entry.cfg, data)}]}
    return _loaded(manager, wanted, name, needed)


def _from_file(path: Path, data: str | None) -> dict[str, Any]:
    from lm_eval.tasks import TaskManager

    if data is not None:
        raise GeometryBenchError(f"{path}:{data}: a YAML file names its data itself, under dataset_kwargs: data_files.")
    if not path.is_file():
        raise GeometryBenchError(f"The task file {path} does not exist; check the path.")
    return _loaded(TaskManager(include_defaults=False), str(path), str(path))


def _loaded(manager: Any, wanted: Any, name: str, splits: Sequence[str] = ()) -> dict[str, Any]:
    """Tasks by name, with their data; ``splits`` are those that a task reads."""
    import datasets
    import yaml

    from_hub = (datasets.exceptions.DatasetsError, *network_errors())
    try:
        return dict(manager.load([wanted])["tasks"])
    except from_hub as error:
        raise GeometryBenchError(
            f"The data of the task {name} cannot be had ({_first(error)}); go online, or name files that you have, as "
            f"{_spelled(name, splits) if splits else 'TASK:FILE for each of its tasks'}."
        ) from error
    except ImportError as error:
        raise GeometryBenchError(
            f"The task {name} needs more than is installed ({_first(error)}); install it."
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, yaml.YAMLError) as error:
        raise GeometryBenchError(
            f"The task {name} cannot be loaded ({_first(error)}); check its declaration."
        ) from error


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0][:200].rstrip(".") if lines else "") or type(error).__name__


def _overrides(name: str, config: Mapping[str, Any], data: str) -> dict[str, Any]:
    """What makes a task read files instead of the Hub."""
    needed = _splits(config)
    parts = [part.partition("=") for part in data.split(",")]
    if [equals for _, equals, _ in parts] == [""]:
        files = {needed[0]: data}
    elif all(split and equals and file for split, equals, file in parts):
        files = {split: file for split, _, file in parts}
    else:
        raise GeometryBenchError(f"{name}:{data}: write it as TASK:FILE, or TASK:SPLIT=FILE,SPLIT=FILE.")
    lacking = [split for split in needed if split not in files]
    if lacking:
        raise GeometryBenchError(
            f"{name} reads the splits {' and '.join(needed)}, and {name}:{data} gives no {' and '.join(lacking)}: write it "
            f"as {_spelled(name, needed)}."
        )
    readers = {_reader(Path(file), name) for file in files.values()}
    if len(readers) > 1:
        raise GeometryBenchError(f"The files of {name} are of several formats; give all in one.")
    return {
        "dataset_path": readers.pop(),
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(Path(file).resolve()) for split, file in files.items()}},
    }


def _splits(config: Mapping[str, Any]) -> list[str]:
    """The splits that a task reads: that of its documents, and that of its examples where it shows any."""
    asked = config.get("test_split") or config.get("validation_split")
    examples = config.get("fewshot_split") or config.get("training_split") or asked
    return [str(split) for split in dict.fromkeys([asked, *([examples] if config.get("num_fewshot") else [])]) if split]


def _spelled(name: str, splits: Sequence[str]) -> str:
    return f"{name}:FILE" if len(splits) == 1 else f"{name}:{','.join(f'{split}=FILE' for split in splits)}"


def _reader(path: Path, name: str) -> str:
    if not path.is_file():
        raise GeometryBenchError(f"The data file {path} of the task {name} does not exist; check the path.")
    if path.suffix.lower() not in _READERS:
        raise GeometryBenchError(f"The data file {path} of the task {name} ends in none of {', '.join(_READERS)}.")
    return _READERS[path.suffix.lower()]


def _refuse(name: str, task: Any) -> None:
    if getattr(task, "MULTIMODAL", False):
        raise GeometryBenchError(f"The task {name} shows pictures or plays sound, and only texts are asked here.")
    if getattr(task, "UNSAFE_CODE", False):
        raise GeometryBenchError(f"The task {name} runs code that the model writes, which is not done here.")
    measured = list(task.aggregation())
    if not set(measured) & set(ACCURACIES):
        raise GeometryBenchError(
            f"The task {name} measures {', '.join(measured)}, and no accuracy: choose one that measures "
            f"{' or '.join(ACCURACIES)}."
        )


def _count(task: Any, limit: int | None) -> int:
    return len(task.eval_docs) if limit is None else min(limit, len(task.eval_docs))


def _lines(members: Mapping[str, Any], limit: int | None) -> Iterator[str]:
    """All that decides a task's result beside the model, as text."""
    for name, one in members.items():
        config = one.dump_config()
        files = (config.pop("dataset_kwargs", None) or {}).get("data_files", {})
        config.pop("metadata", None)
        yield json.dumps([name, str(one.VERSION), config], default=str, sort_keys=True)
        if isinstance(files, Mapping):
            yield json.dumps({split: digest_file(Path(file)) for split, file in files.items() if Path(file).is_file()})
        shown = [one.fewshot_docs()] if one.config.num_fewshot else []
        for documents in (islice(one.eval_docs, limit), *shown):
            yield from (json.dumps(document, default=str, sort_keys=True) for document in documents)
