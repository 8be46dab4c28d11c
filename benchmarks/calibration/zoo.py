"""The models that are edited and what they are asked, in the zoo's language, with seeds of their own."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch

from geometry_bench import api
from geometry_bench.behavior.generation import Settings, generate
from geometry_bench.claims.gate.contrasts import window
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.labs.model import CaptureSettings
from geometry_bench.prompts.pack import load_pack
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.resources import data_root
from geometry_bench.subjects.families import declared_member
from geometry_bench.subjects.streams import block_output
from geometry_bench.subjects.subject import Subject

ZOO = data_root() / "fixtures" / "zoo"
sys.path.insert(0, str(ZOO))

from measure import distinct, refuses  # noqa: E402
from zootext import corpus  # noqa: E402
from zootext.pack import PackWriter  # noqa: E402
from zootext.requests import Requests  # noqa: E402

DECIDING = [claim.id for claim in CLAIMS.values() if claim.decides]
"""The claims that a comparison is decided by."""

PLAIN = CaptureSettings(progress=False)
ASKED_SEED = 991
NEW_TOKENS = 28
FOR_A_DIRECTION = 64
"""Requests of each class that the direction of an edit is found from; the gate never reads them."""

GROUPS: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "chosen on": (5, ("llama-d80/aligned", "llama-d80/safety_tuned", "neox-d64/aligned")),
    "held out": (9, ("llama-d64/aligned", "neox-d96/aligned")),
}
"""Seed of the gate's prompts, and parents. The margin was chosen on families and prompts of the first group alone."""


@dataclass(frozen=True)
class Prompts:
    """What the gate reads, and how many requests of each class."""

    sets: Mapping[str, str]
    pack: Path
    count: int = RequestSettings.count


def committed(count: int) -> Prompts:
    """The zoo's own prompts."""
    own = declared_member("zoo/llama-d80/aligned").prompts
    assert own is not None
    assert own.pack is not None
    return Prompts(dict(own.sets), own.pack, count)


def drawn(seed: int, folder: Path) -> Prompts:
    """Prompts that the zoo's generator draws from its test split with another seed, written once to a folder."""
    sets, pack = folder / f"requests-{seed}.toml", folder / f"pack-{seed}.toml"
    if not pack.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        requests = Requests("test", seed)
        sets.write_text(tomli_w.dumps(requests.sets()), encoding="utf-8")
        pack.write_text(tomli_w.dumps(PackWriter(requests).pack()), encoding="utf-8")
    names = [role for role, _ in committed(1).sets.items()]
    return Prompts({name: f"{sets}:{name}" for name in names}, pack)


def load(member: str) -> Any:
    """A zoo model in float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(ZOO / member, dtype=torch.float32).eval()


@cache
def asked(kind: str, count: int, seed: int = ASKED_SEED) -> tuple[str, ...]:
    """Different requests of a kind (harmful, benign), of the test split."""
    return tuple(chat.user for chat in distinct(corpus.requests("test", seed, (kind,)), count))


@dataclass
class Parent:
    """A model with its tokenizer, the prompts it is measured with, and how many requests its behaviour is counted on."""

    name: str
    prompts: Prompts
    answered: int = 64
    _measured: dict[torch.dtype, api.Results] = field(default_factory=dict)
    _directions: dict[tuple[str, int], torch.Tensor] = field(default_factory=dict)

    @cached_property
    def model(self) -> Any:
        """The unchanged model; edits copy it."""
        return load(self.name)

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(ZOO / self.name)

    def measure(self, model: Any, capture: CaptureSettings = PLAIN) -> api.Results:
        """The gate's claims on a model in memory."""
        return api.measure(
            model,
            tokenizer=self.tokenizer,
            claims=DECIDING,
            name=self.name,
            sets=self.prompts.sets,
            prompts=self.prompts.pack,
            requests=self.prompts.count,
            cache=False,
            capture=capture,
        )

    def measured(self, dtype: torch.dtype = torch.float32) -> api.Results:
        """The gate's claims on the parent itself, in some arithmetic."""
        if dtype not in self._measured:
            model = self.model if dtype == torch.float32 else load(self.name).to(dtype)
            self._measured[dtype] = self.measure(model)
        return self._measured[dtype]

    def refusals(self, model: Any) -> dict[str, float]:
        """Share of harmful and of benign requests that a model refuses."""
        subject = Subject.wrap(model, self.tokenizer, name=self.name)
        found = {}
        for kind in ("harmful", "benign"):
            prompts = [subject.chat.encode("", text).ids for text in asked(kind, self.answered)]
            answers = generate(subject, prompts, Settings(new_tokens=NEW_TOKENS), progress=False)
            found[kind] = float(np.mean([refuses(answer.text) for answer in answers]))
        return found

    @cached_property
    def own_refusals(self) -> dict[str, float]:
        """Those of the parent."""
        return self.refusals(self.model)

    def direction(self, name: str, seed: int) -> torch.Tensor:
        """A unit vector (width,): of refusal, of safety, or random, found on requests drawn with a seed.

        Refusal is the difference of the mean states of harmful and benign requests, safety that of benign requests under the
        safety and the generic system prompt, last token of the chat; at the block of the gate's window where the difference
        is longest beside the spread of requests about their mean.
        """
        if (name, seed) not in self._directions:
            found = self._direction(name, seed)
            self._directions[name, seed] = found / found.norm()
        return self._directions[name, seed]

    def _direction(self, name: str, seed: int) -> torch.Tensor:
        if name == "random":
            return torch.randn(self.model.config.hidden_size, generator=torch.Generator().manual_seed(seed))
        systems, benign = load_pack(self.prompts.pack).systems, asked("benign", FOR_A_DIRECTION, 5000 + seed)
        if name == "refusal":
            one, other = self._states("", asked("harmful", FOR_A_DIRECTION, 5000 + seed)), self._states("", benign)
        else:
            one, other = self._states(systems["safety"], benign), self._states(systems["generic"], benign)
        apart = one.mean(dim=0) - other.mean(dim=0)
        away = torch.cat([one - one.mean(dim=0), other - other.mean(dim=0)])
        lengths = apart.norm(dim=-1) / away.square().sum(dim=-1).mean(dim=0).sqrt()
        return apart[int(lengths.argmax())]

    @torch.inference_mode()
    def _states(self, system: str, users: tuple[str, ...]) -> torch.Tensor:
        """Last tokens of chats at the blocks of the gate's window (requests, blocks, width)."""
        subject = Subject.wrap(self.model, self.tokenizer, name=self.name)
        encoded = [torch.tensor(subject.chat.encode(system, user).ids) for user in users]
        ids = torch.nn.utils.rnn.pad_sequence(encoded, batch_first=True)
        last = torch.tensor([len(one) - 1 for one in encoded])
        mask = torch.arange(ids.shape[1])[None] <= last[:, None]
        blocks = window(subject.n_layers)
        with captured(subject.blocks) as outputs:
            self.model(input_ids=ids, attention_mask=mask.long())
        return torch.stack([outputs[block][torch.arange(len(ids)), last] for block in blocks], dim=1)


@contextmanager
def captured(blocks: Sequence[torch.nn.Module]) -> Iterator[dict[int, torch.Tensor]]:
    """Within it, what every block returned in the last pass."""
    outputs: dict[int, torch.Tensor] = {}
    with ExitStack() as stack:
        for number, block in enumerate(blocks):
            hook = block.register_forward_hook(
                lambda _module, _given, output, number=number: outputs.update({number: block_output(output)})
            )
            stack.callback(hook.remove)
        yield outputs
