"""The trainers of transformers and trl, set up so that a stage can be stopped, resumed and repeated exactly.

Imports torch, transformers and trl: import this module only when training.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import random
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from geometry_bench.errors import GeometryBenchError
from geometry_bench.training.arguments import arguments
from geometry_bench.training.checkpoints import last_complete, mark_complete
from geometry_bench.training.examples import IGNORED, Rows
from geometry_bench.training.recipe import Stage

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
    """Train ``model`` in place. Checkpoints are kept in ``folder``; training continues from the last complete one there.

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
