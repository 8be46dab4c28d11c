"""Changes of a model's activations along a direction: steer, ablate, cap; as data, and in effect within a context.

``applied(subject, *interventions)`` puts them in effect, and takes them away again whatever happens. Contexts nest; at one
block they act in the order in which they were given. Arithmetic is float32 at least and is rounded to the model's dtype
once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from geometry_bench.behavior.last_token import LastToken
from geometry_bench.behavior.writers import stream_input, writers
from geometry_bench.errors import GeometryBenchError
from geometry_bench.storage import digest_arrays
from geometry_bench.subjects.streams import block_output
from geometry_bench.subjects.subject import Subject

Vector = NDArray[np.float64]
Positions = Literal["all", "last"]
Scale = Literal["activation", "direction"]
Change = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Steer:
    """h <- h + dose · ‖h‖ · v̂ at the outputs of blocks (None: of all).

    ``scale="direction"`` adds dose · v instead, at the direction's own length. ``positions="last"`` changes the last token
    of every pass alone: in generation, the last token of the prompt and every token after it. A negative dose subtracts.

    Raises GeometryBenchError for a direction that is not one vector of finite numbers or is zero, and a dose that is not
    finite.
    """

    direction: NDArray[Any]
    dose: float
    blocks: Sequence[int] | None = None
    positions: Positions = "all"
    scale: Scale = "activation"

    def __post_init__(self) -> None:
        _checked(self, "dose")
        for name, known in (("positions", ("all", "last")), ("scale", ("activation", "direction"))):
            if getattr(self, name) not in known:
                raise GeometryBenchError(
                    f"Unknown {name} {getattr(self, name)!r} of a Steer: choose {' or '.join(known)}."
                )

    def change(self, hidden: Tensor, unit: Tensor) -> Tensor:
        """Activations (..., width) after the change; ``unit`` is the direction at length 1."""
        if self.scale == "direction":
            return hidden + self.dose * length(self) * unit
        norms: Tensor = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
        return hidden + self.dose * norms * unit


@dataclass(frozen=True, eq=False)
class Ablate:
    """w <- w − strength · ⟨w, v̂⟩ · v̂ for everything w that is written to the stream: embedding, attention and MLP outputs.

    At strength 1 the stream has no component along v at any place. With ``blocks`` only what these write is changed, so
    that the component that the others wrote remains. Equals `ablated.ablated` at any strength.

    Raises GeometryBenchError as Steer does, and for a strength outside 0..1.
    """

    direction: NDArray[Any]
    blocks: Sequence[int] | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        _checked(self, "strength", within=True)

    def change(self, hidden: Tensor, unit: Tensor) -> Tensor:
        """What is written (..., width) after the change; ``unit`` is the direction at length 1."""
        return hidden - self.strength * _along(hidden, unit) * unit


@dataclass(frozen=True, eq=False)
class Cap:
    """h <- h − α · max(0, ⟨h, v̂⟩ − τ) · v̂ at the outputs of blocks (None: of all); τ is ``threshold``.

    At α = 1 no projection on v̂ exceeds τ, rounding apart; at α = 0 nothing changes. Source: claim `capping.refusal`.

    Raises GeometryBenchError as Steer does, for a threshold that is not given, and an α outside 0..1.
    """

    direction: NDArray[Any]
    threshold: float = math.nan
    alpha: float = 1.0
    blocks: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.threshold is None or math.isnan(self.threshold):
            raise GeometryBenchError("A Cap has no threshold: give the projection above which activations are capped.")
        _checked(self, "threshold")
        _checked(self, "alpha", within=True)

    def change(self, hidden: Tensor, unit: Tensor) -> Tensor:
        """Activations (..., width) after the change; ``unit`` is the direction at length 1."""
        return hidden - self.alpha * (_along(hidden, unit) - self.threshold).clamp(min=0) * unit


Intervention = Steer | Ablate | Cap


def _along(hidden: Tensor, unit: Tensor) -> Tensor:
    return (hidden * unit).sum(dim=-1, keepdim=True)


def _named(one: Intervention) -> str:
    kind = type(one).__name__
    return f"an {kind}" if kind == "Ablate" else f"a {kind}"


def _checked(one: Intervention, number: str, *, within: bool = False) -> None:
    kind, value = _named(one), getattr(one, number)
    if not math.isfinite(value):
        raise GeometryBenchError(f"The {number} of {kind} is {value}: give a finite number.")
    if within and not 0 <= value <= 1:
        raise GeometryBenchError(f"The {number} of {kind} is {value}: give a number from 0 to 1.")
    object.__setattr__(one, "direction", checked_direction(one.direction, f"The direction of {kind}"))
    if one.blocks is not None:
        object.__setattr__(one, "blocks", tuple(sorted(set(map(int, one.blocks)))))
        if not one.blocks:
            raise GeometryBenchError(
                f"{kind[0].upper()}{kind[1:]} names no block: name some, or leave blocks out for all of them."
            )


def checked_direction(direction: ArrayLike, what: str) -> Vector:
    """A direction (width,) in float64, read-only; ``what`` begins sentences.

    Raises GeometryBenchError where it is not one vector, holds NaN or infinite numbers, or is zero.
    """
    vector = np.array(direction, dtype=np.float64)
    if vector.ndim != 1:
        raise GeometryBenchError(f"{what} has shape {vector.shape}: give one vector (width,).")
    if not np.isfinite(vector).all():
        raise GeometryBenchError(f"{what} holds NaN or infinite numbers: compute it again from finite activations.")
    if not vector.any():
        raise GeometryBenchError(f"{what} is zero: it points nowhere, so give another.")
    vector.flags.writeable = False
    return vector


def length(one: Intervention) -> float:
    """Euclidean norm of an intervention's direction."""
    return float(np.linalg.norm(one.direction))


def unit(one: Intervention, like: Tensor) -> Tensor:
    """An intervention's direction at length 1, on the device of a tensor and in its arithmetic, (width,)."""
    vector = torch.from_numpy(one.direction / length(one))
    return vector.to(device=like.device, dtype=_arithmetic(like))


def facts(interventions: Sequence[Intervention]) -> list[dict[str, Any]]:
    """What decides the effect of interventions, in plain JSON values; directions by their SHA-256."""
    return [
        {"kind": type(one).__name__, **vars(one), "direction": digest_arrays({"direction": one.direction})}
        for one in interventions
    ]


def chosen_blocks(subject: Subject, one: Intervention) -> tuple[int, ...]:
    """The blocks of a subject at which an intervention acts.

    Raises GeometryBenchError where the direction has another width than the subject, or a block is not one of its own.
    """
    width, count, name = len(one.direction), subject.n_layers, subject.identity.name
    kind = _named(one)
    if width != subject.width:
        raise GeometryBenchError(
            f"The direction of {kind} has width {width}, and {name} has {subject.width}: give a direction of this model."
        )
    chosen = tuple(range(count)) if one.blocks is None else tuple(one.blocks)
    if not 0 <= chosen[0] <= chosen[-1] < count:
        wrong = next(block for block in chosen if not 0 <= block < count)
        raise GeometryBenchError(
            f"{kind[0].upper()}{kind[1:]} names block {wrong}, and {name} has blocks 0 to {count - 1}: name these."
        )
    return chosen


@contextmanager
def applied(subject: Subject, *interventions: Intervention) -> Iterator[None]:
    """Within it, every pass of the subject's model runs with the interventions in effect.

    The subject then says that it is intervened, so that caches of activations are left alone.

    Raises GeometryBenchError for a direction of another width, a block that the subject does not have, an Ablate of an
    architecture whose writers are not known, and a pass in which the last tokens of a Steer cannot be told.
    """
    if not interventions:
        yield
        return
    chosen = [chosen_blocks(subject, one) for one in interventions]
    writing = writers(subject) if any(isinstance(one, Ablate) for one in interventions) else []
    with subject.intervene(), ExitStack() as stack:
        last = LastToken(subject.backbone)
        if any(isinstance(one, Steer) and one.positions == "last" for one in interventions):
            stack.enter_context(last.noted())
        for one, blocks in zip(interventions, chosen, strict=True):
            change = _change(one, last)
            if isinstance(one, Ablate):
                if one.blocks is None:
                    hook = _at_input(change)
                    stack.callback(subject.blocks[0].register_forward_pre_hook(hook, with_kwargs=True).remove)
                changed = [writer for block in blocks for writer in writing[block]]
            else:
                changed = [subject.blocks[block] for block in blocks]
            for module in changed:
                stack.callback(module.register_forward_hook(_at_output(change, subject.width)).remove)
        yield


def _change(one: Intervention, last: LastToken) -> Callable[[Tensor], Tensor]:
    """An intervention as a function of activations (batch, positions, width), in their own dtype."""

    def change(hidden: Tensor) -> Tensor:
        wide = hidden.to(_arithmetic(hidden))
        direction = unit(one, hidden)
        if isinstance(one, Steer) and one.positions == "last":
            rows, columns = last.places(hidden)
            changed = wide.clone()
            changed[rows, columns] = one.change(wide[rows, columns], direction)
        else:
            changed = one.change(wide, direction)
        return changed.to(hidden.dtype)

    return change


def _arithmetic(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)


def _at_output(change: Callable[[Tensor], Tensor], width: int) -> Callable[..., Any]:
    """A forward hook that changes the stream in what a module returns."""

    def hook(module: nn.Module, _args: Any, output: Any) -> Any:
        hidden = block_output(output)
        if hidden.ndim > 3 or hidden.shape[-1] != width:
            raise GeometryBenchError(
                f"A {type(module).__name__} returned shape {tuple(hidden.shape)} instead of (batch, positions, {width}): "
                "interventions on models with several residual streams are not supported."
            )
        changed = change(hidden)
        return (changed, *output[1:]) if isinstance(output, tuple | list) else changed

    return hook


def _at_input(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """A pre-hook that changes the stream in what a decoder block is given."""

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        changed = change(stream_input(args, kwargs))
        return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

    return hook
