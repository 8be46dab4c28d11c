"""Build a family from a recipe: every stage in its order, resumable, with the manifest written as members are finished.

Layout of the folder: one folder for each member, ``family.toml``, and ``.work`` while a build is under way (a lock, and
checkpoints of the stage being trained). Imports torch only inside functions.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects.families import Family
from geometry_bench.subjects.quiet import quiet_transformers
from geometry_bench.training import sources
from geometry_bench.training.members import WORK, Members, Tell
from geometry_bench.training.recipe import Planned, Recipe
from geometry_bench.training.recipe_file import load_recipe

NEEDED = ("trl", "datasets", "accelerate", "filelock")


class Interrupted(Exception):
    """The build was stopped by the user; the message says how to go on."""


def build(
    recipe_file: Path,
    out: Path,
    *,
    base: str | None = None,
    given: Mapping[str, str] | None = None,
    data: Path | None = None,
    scale: float = 1.0,
    only: Sequence[str] = (),
    threads: int | None = None,
    tell: Tell = print,
) -> Family:
    """Make the recipe's members in ``out`` and return the family as its manifest now lists it.

    ``base`` names the base of a recipe that does not make its own; ``given`` maps names of members to existing models
    that take their place; ``scale`` in (0, 1] shortens every stage; ``only`` names members to make, with what they start
    from. Finished members are skipped, an unfinished stage continues from its last complete checkpoint.

    Raises GeometryBenchError for any fault of the input, and Interrupted after Ctrl-C.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise GeometryBenchError("A family is built by one process; start it without torchrun or accelerate launch.")
    if not 0 < scale <= 1:
        raise GeometryBenchError(f"The share of steps must lie in (0, 1], not be {scale:g}.")
    recipe = load_recipe(recipe_file)
    given = dict(given or {})
    plan = _plan(recipe, base, given, only)
    need_extra()
    with _quiet():
        from geometry_bench.training.arguments import check_training

        for notice in check_training(recipe):
            tell(notice)
        for member in plan:
            if member.name not in given:
                for source in member.stage.data:
                    sources.check(source, member.stage.method, data)
        with _locked(out):
            work = Members(recipe, out, data, scale, tell)
            try:
                if threads is not None:
                    import torch

                    torch.set_num_threads(threads)
                family = work.run(plan, base, given)
            except KeyboardInterrupt:
                doing = f" at {work.doing}" if work.doing else ""
                raise Interrupted(
                    f"Interrupted{doing}; give the same command again and it continues from what is kept in {out}."
                ) from None
            shutil.rmtree(out / WORK, ignore_errors=True)
    return family


def need_extra() -> None:
    """Raises GeometryBenchError when the libraries of the extra ``train`` are not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise GeometryBenchError(
            f"Training needs {' and '.join(missing)}, not installed here: pip install 'geometry-bench[train]'."
        )


def _plan(recipe: Recipe, base: str | None, given: Mapping[str, str], only: Sequence[str]) -> tuple[Planned, ...]:
    """Members to make or to take as given, in order."""
    plan = recipe.members()
    names = {member.name for member in plan}
    if recipe.makes_base and base is not None:
        raise GeometryBenchError(f"The recipe {recipe.name} makes its own base; leave out --base {base}.")
    if not recipe.makes_base and base is None:
        raise GeometryBenchError(f"The recipe {recipe.name} makes no base: name one with --base MODEL.")
    for name in (*given, *only):
        if name not in names:
            raise GeometryBenchError(
                f"The recipe {recipe.name} has no member {name!r}; it has {', '.join(member.name for member in plan)}."
            )
    if only:
        wanted = set(only)
        for member in reversed(plan):
            if member.name in wanted and member.name not in given and member.parent is not None:
                wanted.add(member.parent)
        plan = tuple(member for member in plan if member.name in wanted)
    for member in plan:
        if member.stage.method == "given" and member.name not in given:
            raise GeometryBenchError(
                f"The recipe {recipe.name} takes {member.name} from you: name it with --member {member.name}=MODEL."
            )
    return plan


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """One build in a folder at a time."""
    import filelock

    work = out / WORK
    lock = filelock.FileLock(work / "lock", timeout=0)
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise GeometryBenchError(f"Another build is writing to {out}; wait for it, or choose another --out.") from None
    except OSError as error:
        raise GeometryBenchError(f"{out} cannot be written ({error.strerror}); choose another --out.") from error
    try:
        yield
    finally:
        if [path.name for path in work.glob("*")] == ["lock"]:
            shutil.rmtree(work, ignore_errors=True)
        lock.release()
        with contextlib.suppress(OSError):  # a folder that this build made and put nothing into
            out.rmdir()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out the libraries' own bars and their advice about defaults; errors still show."""
    with quiet_transformers(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="(trl|transformers|accelerate|torch)")
        yield
