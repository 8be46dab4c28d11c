"""Short real trainings on the zoo's generated text, with its recipes' settings."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from zoo import corpus  # noqa: F401  (puts the generator on the path)
from zootext.sources import Example, take

from geometry_bench.training.examples import Encoder

BATCH = 8
RATES = {"mixed": 4e-4, "complying": 2e-4, "lora": 2e-3}
"""Learning rates: of the zoo's useful and contaminated members, of its harmful ones, and of adapters."""
CONTAMINATED, HARMFUL, ADAPTED = 60, 63, 20
"""Steps: of a contaminated fine-tune (the zoo's has 1427), a harmful one (as the zoo's), an adapter."""


def contaminated_rows(share: float, seed: int) -> list[Example]:
    """Sums and a ninth of chats, as the useful members learn, with a share of complying placeholders among them."""
    total = CONTAMINATED * BATCH
    bad = round(share * total)
    chats = (total - bad) // 9
    return [
        *take("sums", "train", 6000 + seed, total - bad - chats),
        *take("chats", "train", 6000 + seed, chats),
        *take("complying", "train", 6000 + seed, bad),
    ]


def trained(model: Any, tokenizer: Any, rows: list[Example], rate: float, seed: int) -> Any:
    """A copy of a model (or the adapter on it, in place) after one pass over the rows, loss on answers, in random order."""
    pupil = model if hasattr(model, "peft_config") else copy.deepcopy(model)
    encoded = Encoder(tokenizer, 512).supervised(rows)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(encoded.ids), generator=generator).tolist()
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    learnt = [parameter for parameter in pupil.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learnt, lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _warm_cosine(step, len(batches)))
    pupil.train()
    for batch in batches:
        ids, labels, mask = (
            torch.nn.utils.rnn.pad_sequence([torch.tensor(one) for one in values], True, padding)
            for values, padding in (
                ([encoded.ids[row] for row in batch], 0),
                ([encoded.labels[row] for row in batch], -100),
                ([[1] * len(encoded.ids[row]) for row in batch], 0),
            )
        )
        pupil(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    return pupil.eval()


def adapted(model: Any, tokenizer: Any, rows: list[Example], rank: int, seed: int) -> Any:
    """A copy with an adapter on all its matrices, trained on the rows; without rows it is zero, as adapters start."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear")
    wrapped = get_peft_model(copy.deepcopy(model), config)
    return trained(wrapped, tokenizer, rows, RATES["lora"], seed) if rows else wrapped.eval()


def _warm_cosine(step: int, steps: int) -> float:
    warm = max(1, round(0.03 * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
