"""The trainers of transformers and trl, set up so that a stage can be stopped, resumed and repeated exactly.

Imports torch, transformers and trl: import this module only when training. What is set against the libraries' defaults is
in `_FIXED` and `_DEFAULTS`; whatever else a recipe names goes to the trainer's own arguments.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import json
import math
import random
import shutil
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from geometry_bench.errors import GeometryBenchError
from geometry_bench.storage import digest_file, write_atomically
from geometry_bench.training.examples import IGNORED, Rows
from geometry_bench.training.recipe import Recipe, Stage

CONFIGS: Mapping[str, Any] = {"pretrain": TrainingArguments, "sft": SFTConfig, "dpo": DPOConfig}
OWN = ("max_length", "save_dtype", "train_dtype")
"""Keys of a recipe's `training` that are this project's: longest row in tokens, dtype of the stored weights, and dtype
of the weights while training (float32 unless a model is too large for that)."""

# What the build itself decides; a recipe that names one of them is told so.
_FIXED: dict[str, Any] = {
    "logging_strategy": "no",  # the bar shows the loss; nothing is written at every step
    "report_to": "none",
    "disable_tqdm": True,
    "eval_strategy": "no",
    "save_strategy": "steps",
    "save_total_limit": 2,
    "push_to_hub": False,
    "remove_unused_columns": False,
    "logging_nan_inf_filter": False,  # a loss that is no number stops the build
    "load_best_model_at_end": False,
    "save_only_model": False,
    "ignore_data_skip": False,
}
_DECIDED = (*_FIXED, "output_dir", "resume_from_checkpoint", "dataset_kwargs", "packing", "padding_free", "use_cpu")
# Where trl and transformers differ from each other, or a default would surprise; a recipe may say otherwise.
_DEFAULTS: dict[str, Any] = {
    "bf16": False,
    "gradient_checkpointing": False,
    "num_train_epochs": 1,
    "max_grad_norm": 1.0,
    "seed": 42,
    "dataloader_num_workers": 0,
}
CHECKPOINTS = 5  # of a stage, unless the recipe says save_steps
_COMPLETE = "complete.json"
_HASHED_BYTES = 64_000_000


# Arguments


def known_keys(method: str) -> set[str]:
    """Keys that `training` of a stage of this method may have."""
    names = {field.name for field in dataclasses.fields(CONFIGS[method]) if field.init}
    return (names | set(OWN)) - set(_DECIDED)


def check_training(recipe: Recipe) -> list[str]:
    """Refuse unknown keys and values that the trainers refuse, for every stage; returns notices for the user.

    Raises GeometryBenchError naming the stage and the key.
    """
    everywhere = set().union(*(known_keys(method) for method in CONFIGS))
    halves: list[str] = []
    for stage in recipe.stages:
        if stage.method == "given":
            continue
        where = f"`training` of the stage {stage.role} of {recipe.path}"
        for key in stage.training:
            if key in _DECIDED:
                raise GeometryBenchError(f"`{key}` in {where} is decided by the build itself; leave it out.")
            known = known_keys(stage.method) if key in stage.own_training else everywhere
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                raise GeometryBenchError(
                    f"Unknown key `{key}` in {where}{hint}; keys are those of {CONFIGS[stage.method].__name__}, and "
                    f"{', '.join(OWN)}."
                )
        arguments(stage, Path("unused"), rows=1)
        if stage.training.get("bf16") and not _has_bf16():
            halves.append(stage.role)
    if halves:
        return [f"bf16 needs a GPU that has it; here {', '.join(halves)} are trained in float32."]
    return []


def _has_bf16() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def steps_of(stage: Stage, rows: int, scale: float = 1.0) -> int:
    """Optimiser steps of a stage with so many rows."""
    if stage.training.get("max_steps", -1) > 0:
        return max(1, round(float(stage.training["max_steps"]) * scale))
    batch = int(stage.training.get("per_device_train_batch_size", 8))
    per_epoch = math.ceil(math.ceil(rows / batch) / int(stage.training.get("gradient_accumulation_steps", 1)))
    return max(1, math.ceil(per_epoch * float(stage.training.get("num_train_epochs", 1))))


def arguments(stage: Stage, folder: Path, *, rows: int, scale: float = 1.0) -> Any:
    """The trainer's arguments: what the recipe says over `_DEFAULTS`, and `_FIXED`. Raises GeometryBenchError."""
    names = {field.name for field in dataclasses.fields(CONFIGS[stage.method]) if field.init}
    given = {key: value for key, value in stage.training.items() if key in names and key not in ("max_length", "dtype")}
    values = {**_DEFAULTS, **given, **_FIXED, "output_dir": str(folder)}
    grouped = "random" if stage.method == "pretrain" else "group_by_length"
    values.setdefault("train_sampling_strategy", grouped)
    if given.get("max_steps", -1) > 0:
        values["max_steps"] = steps_of(stage, rows, scale)
    if steps_of(stage, rows, scale) == 1:
        values["warmup_steps"] = 0  # the first step of a warm-up has rate 0: the member would equal its parent
    values.setdefault("save_steps", math.ceil(steps_of(stage, rows, scale) / CHECKPOINTS))
    if values["bf16"] and not _has_bf16():
        values["bf16"] = False
    if not torch.cuda.is_available():
        values["dataloader_pin_memory"] = False
    if stage.method == "sft":
        values |= {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    if stage.method == "dpo":
        values["max_length"] = stage.training.get("max_length")
    try:
        with warnings.catch_warnings():
            # Names that the newest library calls by another name are the only ones that the oldest supported one knows.
            warnings.simplefilter("ignore", FutureWarning)
            return CONFIGS[stage.method](**values)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise GeometryBenchError(f"`training` of the stage {stage.role} cannot be used: {error}.") from error


# Order of rows


class Order(torch.utils.data.Sampler[int]):
    """Indices of one epoch, decided by (seed, epoch) alone, so that a resumed run sees the order it would have seen.

    With ``lengths``, rows of like length share a batch: rows are shuffled, sorted within pools of 32 batches, and the
    batches shuffled again; a last incomplete batch comes last.
    """

    def __init__(self, trainer: Any, rows: int, batch: int, seed: int, lengths: list[int] | None) -> None:
        self.trainer, self.rows, self.batch, self.seed, self.lengths = trainer, rows, batch, seed, lengths

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        # The trainer's epoch is a fraction of finished batches; just after an epoch it is that whole number.
        epoch = int((self.trainer.state.epoch or 0.0) + 1e-6)
        return iter(order(self.rows, self.batch, self.seed + 1_000_003 * epoch, self.lengths))


def order(rows: int, batch: int, seed: int, lengths: list[int] | None) -> list[int]:
    """A permutation of ``range(rows)``; see `Order`."""
    shuffle = random.Random(seed)
    indices = list(range(rows))
    shuffle.shuffle(indices)
    if lengths is None:
        return indices
    pool = batch * 32
    near = [i for start in range(0, rows, pool) for i in sorted(indices[start : start + pool], key=lengths.__getitem__)]
    batches = [near[start : start + batch] for start in range(0, rows, batch)]
    last = batches.pop() if rows % batch else []
    shuffle.shuffle(batches)
    return [i for one in batches for i in one] + last


# Trainers


class _Watch(TrainerCallback):
    """The bar with the loss; the first Ctrl-C stops after the step under way, with a checkpoint; complete checkpoints."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.stopped = False
        self.last: deque[float] = deque(maxlen=20)
        self.step_loss = 0.0
        self.losses: list[float] = []
        self.bar: Any = None
        self._before: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        quick = sys.stderr.isatty()
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=self.label,
            unit="step",
            mininterval=0.5 if quick else 30,
        )
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupted)

    def _interrupted(self, *_: Any) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True
        tqdm.write("stopping after this step, with a checkpoint (Ctrl-C again: at once)", file=sys.stderr)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.last.append(self.step_loss)
        self.losses.append(self.step_loss)
        self.step_loss = 0.0
        self.bar.set_postfix(loss=f"{sum(self.last) / len(self.last):.3f}", refresh=False)
        self.bar.update(1)
        if self.stopped:
            control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None


class _Watched:
    """What all three trainers here add: a known order of rows, and a stop at a loss that is no number."""

    watch: _Watch
    stage_name: str
    lengths: list[int] | None

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        trainer = cast(Any, self)
        data = trainer.train_dataset if train_dataset is None else train_dataset
        args = trainer.args
        if args.train_sampling_strategy == "sequential":
            return torch.utils.data.SequentialSampler(data)
        lengths = self.lengths if args.train_sampling_strategy == "group_by_length" else None
        seed = args.seed if args.data_seed is None else args.data_seed
        return Order(trainer, len(data), args.train_batch_size * args.gradient_accumulation_steps, seed, lengths)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        value = float(loss)
        if not math.isfinite(value):
            step = cast(Any, self).state.global_step + 1
            raise GeometryBenchError(
                f"The loss of {self.stage_name} is {value} at step {step}, so nothing was written for it; lower its "
                "learning_rate or check its data."
            )
        self.watch.step_loss += value
        return loss

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Weight decay on matrices, never on vectors (gains and biases)."""
        return [name for name, parameter in model.named_parameters() if parameter.dim() >= 2]

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """No card for a checkpoint: cards of members are written from measurements."""

    def _send_telemetry(self) -> None:
        """Nothing about a user's training leaves the machine."""


def _plain_head(model: Any) -> bool:
    """Whether the logits are the output matrix times the last hidden state, and nothing more."""
    config = model.config.get_text_config()
    scaled = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
    return not getattr(config, "output_router_logits", False) and all(getattr(config, k, None) is None for k in scaled)


def _answer_loss(model: Any, inputs: Mapping[str, Any], count: Any) -> torch.Tensor:
    """Mean cross-entropy over the labelled positions; only these go through the output matrix.

    That matrix is the dearest layer of a small model. Padding is on the right, where causal attention never looks from a
    real token, so no mask is needed.
    """
    labels = inputs["labels"][:, 1:]
    kept = labels != IGNORED
    hidden = model.base_model(input_ids=inputs["input_ids"], use_cache=False).last_hidden_state[:, :-1]
    logits = model.get_output_embeddings()(hidden[kept])
    total: torch.Tensor = torch.nn.functional.cross_entropy(logits.float(), labels[kept], reduction="sum")
    return cast(torch.Tensor, total / (kept.sum() if count is None else count))


class _PretrainTrainer(_Watched, Trainer):
    pass


class _SFTTrainer(_Watched, SFTTrainer):
    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        # trl's fused output layer leaves out positions without a label on GPUs only.
        if self.args.device.type == "cpu" and not return_outputs and _plain_head(self.model):
            return _answer_loss(model, inputs, num_items_in_batch)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[no-untyped-call]


class _DPOTrainer(_Watched, DPOTrainer):
    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        return dataset  # rows come tokenised, rendered as the suite renders prompts


class _PackedRows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.from_numpy(self.rows[index].astype("int64"))
        labels = ids.clone()
        labels[0] = IGNORED  # nothing comes before it
        return {"input_ids": ids, "labels": labels}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one training did. ``loss``: mean of the last tenth of the steps, as far as this process made them.

    ``stopped``: the user asked for a stop during the last step.
    """

    steps: int
    resumed_at: int
    loss: float | None
    stopped: bool


def train(
    stage: Stage, name: str, model: Any, tokenizer: Any, rows: Rows, folder: Path, *, scale: float = 1.0
) -> Outcome:
    """Train ``model`` in place. Checkpoints lie in ``folder``; training goes on from the last complete one there.

    Raises GeometryBenchError for a loss that is no number or arguments that do not fit; KeyboardInterrupt after Ctrl-C,
    with a checkpoint of the step then reached.
    """
    args = arguments(stage, folder, rows=len(rows), scale=scale)
    start = last_complete(folder)
    watch = _Watch(name)
    common: dict[str, Any] = {"model": model, "args": args, "callbacks": [watch]}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    lengths = None
    trainer: Any
    try:
        if stage.method == "pretrain":
            trainer = _PretrainTrainer(**common, train_dataset=_PackedRows(rows.packed))
        elif stage.method == "sft":
            lengths = [len(ids) for ids in rows.ids]
            data = Dataset.from_dict({"input_ids": rows.ids, "labels": rows.labels})
            collator = DataCollatorForLanguageModeling(pad_token_id=pad)
            trainer = _SFTTrainer(**common, train_dataset=data, data_collator=collator, processing_class=tokenizer)
        else:
            lengths = [len(p["prompt_ids"]) + max(len(p["chosen_ids"]), len(p["rejected_ids"])) for p in rows.pairs]
            reference = None if args.precompute_ref_log_probs else _frozen_copy(model)
            trainer = _DPOTrainer(
                **common,
                ref_model=reference,
                train_dataset=Dataset.from_list(rows.pairs),
                processing_class=copy.deepcopy(tokenizer),  # trl declares a pad token on it
            )
    except ValueError as error:
        raise GeometryBenchError(f"The stage {stage.role} cannot be trained: {error}") from error
    trainer.watch, trainer.stage_name, trainer.lengths = watch, name, lengths
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=None if start is None else str(start))
    finally:
        watch.close()
    if watch.stopped and trainer.state.global_step < trainer.state.max_steps:
        raise KeyboardInterrupt
    # trl replaces the model's forward; take it off, so that what is saved is the plain model again.
    vars(model).pop("forward", None)
    tail = watch.losses[-max(1, trainer.state.max_steps // 10) :]
    return Outcome(
        steps=trainer.state.global_step,
        resumed_at=0 if start is None else int(start.name.rpartition("-")[2]),
        loss=sum(tail) / len(tail) if tail else None,
        stopped=watch.stopped,
    )


def _frozen_copy(model: Any) -> Any:
    reference = copy.deepcopy(model)
    for parameter in reference.parameters():
        parameter.requires_grad_(False)
    return reference.eval()


# Checkpoints


def mark_complete(checkpoint: Path) -> None:
    """Write down every file of a checkpoint with its size (and content hash unless it is large), as its last file."""
    files = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path.name != _COMPLETE:
            files[path.relative_to(checkpoint).as_posix()] = _seal(path)
    write_atomically(checkpoint / _COMPLETE, json.dumps(files))


def _seal(path: Path) -> list[Any]:
    size = path.stat().st_size
    return [size, None if size > _HASHED_BYTES else digest_file(path)]


def is_complete(checkpoint: Path) -> bool:
    """Whether every file of the checkpoint is there as it was written."""
    try:
        files = json.loads((checkpoint / _COMPLETE).read_text())
        return all(_seal(checkpoint / name) == seal for name, seal in files.items())
    except (OSError, ValueError, AttributeError):
        return False


def last_complete(folder: Path) -> Path | None:
    """The checkpoint of most steps that is complete; others are removed, so that no later one is mistaken for progress."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    best = None
    for path in sorted(found, key=lambda one: int(one.name.rpartition("-")[2]), reverse=True):
        if best is None and is_complete(path):
            best = path
        elif best is None:
            shutil.rmtree(path, ignore_errors=True)
    return best
