"""Run a model that belongs to someone else and leave it as it was: modes, random states, hooks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules import module as every_module

_RESCALED = "layers_are_rescaled"  # what RWKV notes of its weights
_RECORDING = "_output_capturing_hooks_installed"  # where transformers notes that its recorders are in place


@contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """Evaluation mode in every module, no gradients, no autocast.

    Afterwards, whatever happened, every module has its own training flag again, and the generators of torch (those of
    all CUDA devices in use included), numpy and Python are where they were.
    """
    # Set one by one: some models merge weights when eval() is called.
    training = [module for module in model.modules() if module.training]
    scaled = [(module, bool(module.layers_are_rescaled)) for module in model.modules() if hasattr(module, _RESCALED)]
    put_back = random_states()
    try:
        for module in training:
            module.training = False
        with torch.no_grad(), ExitStack() as stack:
            for device in ("cpu", "cuda", "mps"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        for module, before in scaled:
            _rescale(module, before)
        for module in training:
            module.training = True
        for restore in put_back:
            restore()


def _rescale(module: Any, wanted: bool) -> None:
    """RWKV divides weights by powers of two in place when it is first evaluated; multiply them again, which is exact."""
    if module.layers_are_rescaled != wanted:
        module.training = not wanted
        module._rescale_layers()
        module.training = False


def random_states() -> list[Callable[[], object]]:
    """For every generator of torch, numpy and Python the call that puts it back to where it is now."""
    states: list[Callable[[], object]] = [
        partial(torch.set_rng_state, torch.get_rng_state()),
        partial(np.random.set_state, np.random.get_state()),
        partial(random.setstate, random.getstate()),
    ]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states.append(partial(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    return states


def has_hooks(model: nn.Module) -> bool:
    """Whether forward hooks or pre-hooks of anyone but transformers may change what this model computes.

    Its own only record outputs or switch on gradients.
    """
    hooks: list[Any] = [every_module._global_forward_hooks, every_module._global_forward_pre_hooks]
    for module in model.modules():
        hooks += [module._forward_hooks, module._forward_pre_hooks]
    return any(not _of_transformers(hook) for some in hooks for hook in some.values())


def _of_transformers(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("transformers.")


@contextmanager
def recorders_anew(model: nn.Module) -> Iterator[None]:
    """Let transformers install its recorders of hidden states within, and have the hooks of before afterwards.

    It installs them at the first request and never removes them; hooks that are older than they are run before them, so
    that new ones record what the next block is given.
    """
    before = [
        (module, dict(module._forward_hooks), module.__dict__.pop(_RECORDING, None)) for module in model.modules()
    ]
    for module, hooks, _ in before:
        for key in [key for key, hook in hooks.items() if _of_transformers(hook)]:
            del module._forward_hooks[key]
    try:
        yield
    finally:
        for module, hooks, recording in before:
            now = dict(module._forward_hooks)
            module._forward_hooks.clear()
            for key, hook in {**hooks, **now}.items():
                if key in (hooks if _of_transformers(hook) else now):
                    module._forward_hooks[key] = hook
            module.__dict__.pop(_RECORDING, None)
            if recording is not None:
                module.__dict__[_RECORDING] = recording
