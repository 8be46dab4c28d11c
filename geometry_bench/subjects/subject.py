"""One model ready to be measured, loaded by this project or wrapped where it already is.

Imports torch on top: only modules that measure may import this one.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from geometry_bench.prompts.render import ChatFormat
from geometry_bench.subjects import memory
from geometry_bench.subjects.blocks import find_backbone, find_blocks, input_device, text_config
from geometry_bench.subjects.measuring import has_hooks, measuring
from geometry_bench.subjects.quantised import method_of
from geometry_bench.subjects.quiet import quiet_transformers
from geometry_bench.subjects.selfcheck import self_check
from geometry_bench.subjects.settings import position_limit
from geometry_bench.subjects.spec import Identity, SubjectSpec
from geometry_bench.subjects.streams import notes_of, residual_stream
from geometry_bench.subjects.tokenizers import refuse_mute

_CHECK_SYSTEM = "You answer briefly."
_CHECK_USER = "Name the colour of a clear sky at noon."


class Subject:
    """A causal model with its tokenizer, chat format and decoder blocks; run it inside :meth:`measuring` only.

    ``model`` is the causal model (a PEFT model with an adapter); ``backbone`` the text model without head, to call for
    activations; ``blocks`` its decoder blocks in order. ``dtype`` and ``attention`` are what is in effect, not what was
    asked. With ``device="map"`` parts may be elsewhere than ``device``, which is where token ids go.
    """

    def __init__(
        self,
        spec: SubjectSpec,
        identity: Identity,
        model: nn.Module,
        tokenizer: Any,
        chat: ChatFormat,
        *,
        tokenizer_hash: str,
        unused_tensors: tuple[str, ...] = (),
        quantisation: str | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.spec = spec
        self.identity = identity
        self.model = model
        self.tokenizer = tokenizer
        self.chat = chat
        self.backbone = find_backbone(model)
        self.blocks = find_blocks(model)
        self.tokenizer_hash = tokenizer_hash
        self.unused_tensors = unused_tensors
        self.text_config = text_config(self.backbone)
        self._notes = (*notes, *notes_of(self.text_config))
        embedding = cast(nn.Module, cast(Any, self.backbone).get_input_embeddings())
        weight = next(embedding.parameters())
        self.device: torch.device = input_device(self.backbone)
        self.dtype: str = _dtype_name(weight.dtype)
        config = cast(Any, self.backbone).config
        self.attention: str = str(getattr(config, "_attn_implementation", None) or "eager")
        self.quantisation: str | None = quantisation or method_of(cast(Any, model).config)
        self._measuring = False
        self._interventions = 0

    @classmethod
    def wrap(
        cls,
        model: nn.Module,
        tokenizer: Any,
        *,
        name: str = "model",
        alignment: str | None = None,
        template_arguments: Sequence[str] = (),
    ) -> Subject:
        """A subject of a transformers or PEFT model that is in memory, which stays as it is: modes, hooks, random states.

        ``name`` is used in records; ``alignment`` is the declared method in free text;
        ``template_arguments`` (``KEY=VALUE``) go to the chat template. The revision is that of the
        weights now (all are read once): wrap it again after training steps. ``close`` leaves the model alone.

        Raises GeometryBenchError: no causal text decoder; weights without values (meta device), NaN or infinite; a
        tokenizer that is not of transformers or does not belong to the model; blocks that fail the self-check.
        """
        model = cast(nn.Module, getattr(model, "_orig_mod", model))  # inside torch.compile; its forward is not used
        memory.refuse_unmeasurable(model, tokenizer, name)
        with quiet_transformers(), measuring(model):
            tokenizer_hash = memory.tokenizer_hash(tokenizer)
            identity = memory.identity(model, tokenizer_hash, name)
            spec = SubjectSpec(name, name=name, alignment=alignment, template_arguments=tuple(template_arguments))
            return cls.checked(spec, identity, model, tokenizer, tokenizer_hash=tokenizer_hash)

    @classmethod
    def checked(
        cls,
        spec: SubjectSpec,
        identity: Identity,
        model: nn.Module,
        tokenizer: Any,
        *,
        tokenizer_hash: str,
        unused_tensors: tuple[str, ...] = (),
        quantisation: str | None = None,
        notes: tuple[str, ...] = (),
    ) -> Subject:
        """A subject whose blocks have passed the self-check on one short prompt; raises as that does.

        Layers and width are taken from the model: configurations may leave them to their family's defaults.
        """
        text = text_config(find_backbone(model))
        identity = replace(identity, layers=len(find_blocks(model)), width=int(text.hidden_size))
        refuse_mute(tokenizer, identity.name)
        limit = position_limit(text, tokenizer)
        chat = ChatFormat(tokenizer, max_length=limit, arguments=spec.template_arguments)
        subject = cls(
            spec,
            identity,
            model,
            tokenizer,
            chat,
            tokenizer_hash=tokenizer_hash,
            unused_tensors=unused_tensors,
            quantisation=quantisation,
            notes=notes,
        )
        system = "" if chat.system_policy == "not_applicable" else _CHECK_SYSTEM
        ids = chat.encode(system, _CHECK_USER).ids
        self_check(subject.backbone, subject.blocks, ids, layers=identity.layers, width=identity.width)
        return subject

    def residual_stream(self, block: int, output: Any) -> torch.Tensor:
        """Residual stream (batch, positions, width) after a block, out of what it returned."""
        return residual_stream(self.text_config, block, output)

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""
        return self.identity.layers

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return self.identity.width

    @property
    def id(self) -> str:
        """Stable name for test ids and tables: the name, and the adapter's after a plus sign."""
        adapter = self.identity.adapter
        return self.identity.name if adapter is None else f"{self.identity.name}+{adapter}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What was skipped, guessed or substituted, one sentence each: a record holds them, a run prints them."""
        return (*self._notes, *self.chat.notes)

    def facts(self) -> dict[str, Any]:
        """What a record says about the subject, in plain JSON values."""
        identity = self.identity
        return {
            "id": self.id,
            "name": identity.name,
            "origin": identity.origin,
            "revision": identity.revision,
            "architecture": identity.architecture,
            "layers": identity.layers,
            "width": identity.width,
            "dtype": self.dtype,
            "device": self.device.type,
            "attention": self.attention,
            "quantisation": self.quantisation,
            "adapter": identity.adapter,
            "adapter_hash": identity.adapter_hash,
            "alignment": self.spec.alignment,
            "template": self.chat.name,
            "template_hash": self.chat.template_hash,
            "system_policy": self.chat.system_policy,
            "injected_text": self.chat.injected_text,
            "prompt_tail": self.chat.prompt_tail,
            "tokenizer_hash": self.tokenizer_hash,
            "trust_remote_code": self.spec.trust_remote_code,
            "allow_pickle": self.spec.allow_pickle,
            "unused_tensors": len(self.unused_tensors),
            "notes": list(self.notes),
        }

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """For every forward pass: evaluation mode and no gradients, with modes and random states restored afterwards.

        Within another one of the same subject it does nothing, so that all its passes draw from one stream.
        """
        if self._measuring:
            yield
            return
        self._measuring = True
        try:
            with measuring(self.model):
                yield
        finally:
            self._measuring = False

    @property
    def intervened(self) -> bool:
        """Whether what is measured now is not the weights' doing alone: inside :meth:`intervene`, or under hooks.

        Forward hooks and pre-hooks of any module count, except those of transformers itself. To be asked outside of a
        capture, whose own hooks would count too. While it is true, nothing captured before holds.
        """
        return self._interventions > 0 or has_hooks(self.model)

    @contextmanager
    def intervene(self) -> Iterator[None]:
        """Mark the model as changed by other means than hooks (patched methods, scaled weights) for the time being."""
        self._interventions += 1
        try:
            yield
        finally:
            self._interventions -= 1

    def close(self) -> None:
        """Let the model go; the subject's facts stay readable. One that was loaded here is freed, a wrapped one lives on."""
        self.blocks = []
        self.model = self.backbone = nn.Module()
        if self.identity.origin == "memory":
            return
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
