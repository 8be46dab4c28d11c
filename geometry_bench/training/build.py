"""Build a family from a recipe: every stage in its order, resumable, with the manifest written as members are finished.

Layout of the folder: one folder for each member, ``family.toml``, and ``.work`` while a build is under way (a lock, and
checkpoints of the stage being trained). Imports torch only inside functions.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import json
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from geometry_bench.errors import GeometryBenchError
from geometry_bench.resources import data_root
from geometry_bench.storage import digest, digest_bytes, write_atomically
from geometry_bench.subjects import hashing
from geometry_bench.subjects.families import MANIFEST, Family, Member, dump_family, load_family
from geometry_bench.subjects.quiet import quiet_transformers
from geometry_bench.subjects.spec import SubjectSpec, has_tokenizer, resolve
from geometry_bench.training import sources
from geometry_bench.training.examples import Encoder, Rows, train_tokenizer
from geometry_bench.training.recipe import Planned, Recipe, Source, Stage, load_recipe

NEEDED = ("trl", "datasets", "accelerate", "filelock")
WORK = ".work"
FACTS = "training.json"
_SAMPLE = 1000

Tell = Callable[[str], None]


class Interrupted(Exception):
    """The build was stopped by the user; the message says how to go on."""


@dataclass(frozen=True)
class Start:
    """A model that a stage can start from: ``place`` and ``revision`` as from_pretrained takes them."""

    member: Member
    place: str
    revision: str | None
    stage_hash: str
    weights: str


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
        from geometry_bench.training.trainers import check_training

        for notice in check_training(recipe):
            tell(notice)
        for member in plan:
            if member.name not in given:
                for source in member.stage.data:
                    sources.check(source, member.stage.method, data)
        with _locked(out):
            work = _Build(recipe, out, data, scale, tell)
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


def declared_hashes(recipe_file: Path, out: Path) -> dict[str, str]:
    """Member -> ``stage_hash`` that a full build of the recipe in ``out`` would write now, without training anything.

    A stored family whose manifest says otherwise was made from another recipe or another text. Raises GeometryBenchError
    for a recipe that does not make its own base.
    """
    recipe = load_recipe(recipe_file)
    plan = _plan(recipe, None, {}, ())
    work = _Build(recipe, out, None, 1.0, print)
    hashes: dict[str, str] = {}
    for member in plan:
        hashes[member.name] = work.stage_hash(member, None if member.parent is None else hashes[member.parent])
    return hashes


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


class _Build:
    """One run of a build; ``doing`` names the member under way."""

    def __init__(self, recipe: Recipe, out: Path, data: Path | None, scale: float, tell: Tell) -> None:
        self.recipe, self.out, self.data, self.scale, self.tell = recipe, out, data, scale, tell
        self.doing: str | None = None
        self.stopped = False
        self.starts: dict[str, Start] = {}
        self.kept = self._existing()

    def _existing(self) -> dict[str, Member]:
        """Members that the folder's manifest lists as finished."""
        if not (self.out / MANIFEST).exists():
            return {}
        try:
            family = load_family(self.out)
        except GeometryBenchError as error:
            raise GeometryBenchError(
                f"{self.out / MANIFEST} is there already and cannot be continued ({str(error).rstrip('.')}); remove it or "
                "choose another --out."
            ) from error
        return {member.name: member for member in family.members}

    def run(self, plan: Sequence[Planned], base: str | None, given: Mapping[str, str]) -> Family:
        if base is not None:
            self._take("base", "base", base, None, None)
        for member in plan:
            parent = self.starts.get(member.parent) if member.parent is not None else None
            if member.name in given:
                self._take(member.name, member.role, given[member.name], member.parent, member.stage.alignment)
                continue
            stage_hash = self.stage_hash(member, None if parent is None else parent.stage_hash)
            finished = self._finished(member.name, stage_hash, parent)
            if finished is not None:
                self.tell(f"{member.name}: finished already, skipped")
                self.starts[member.name] = finished
            else:
                self.doing = member.name
                self.starts[member.name] = self._make(member, parent, stage_hash)
            self._write()
            if self.stopped:
                raise KeyboardInterrupt
            self.doing = None
        return self._write()

    def _take(self, name: str, role: str, model: str, parent: str | None, alignment: str | None) -> None:
        """A model of the user's, left where it is."""
        identity = resolve(SubjectSpec(model))
        if identity.origin == "hub":
            place, revision, where = identity.name, identity.revision, identity.name
        else:
            assert identity.path is not None, "a local model has a folder"
            place, revision = str(identity.path.resolve()), None
            where = identity.name if identity.name.startswith("zoo/") else place
        member = Member(name=name, role=role, model=where, revision=revision, parent=parent, alignment=alignment)
        known = "sha256:" + digest({"given": identity.revision})
        self.starts[name] = Start(member, place, revision, known, identity.revision)

    # What is finished

    def stage_hash(self, member: Planned, parent: str | None) -> str:
        """Hash of all that the member's weights follow from, as declared: its stage, its data, and ``parent``'s hash."""
        stage = member.stage
        facts: dict[str, Any] = {
            "role": stage.role,
            "method": stage.method,
            "training": dict(stage.training),
            "tokens": stage.tokens,
            "pack": stage.pack,
            "scale": self.scale,
            "data": [source.declared() for source in stage.data],
            "text": [self._fingerprint(source) for source in stage.data],
            "parent": parent,
        }
        if stage.role == "base":
            assert self.recipe.tokenizer is not None, "checked when the recipe was read"
            facts |= {
                "model": self.recipe.model,
                "spread": self.recipe.spread,
                "tokenizer": asdict(self.recipe.tokenizer),
            }
            if self.recipe.tokenizer.shared is not None:
                facts["vocabulary"] = hashing.tokenizer_hash(_shared_tokenizer(self.out, self.recipe.tokenizer.shared))
        return f"sha256:{digest(facts)}"

    def _fingerprint(self, source: Source) -> str:
        """A change of a file or of the generator's text makes a stage another one; a data set has its revision."""
        if source.kind == "file":
            return hashing.file_hash(sources.find(source, self.data))
        if source.kind == "dataset":
            return source.revision or ""
        return _sample_hash(source.name, source.seed or 0, min(_SAMPLE, source.count or _SAMPLE))

    def _finished(self, name: str, stage_hash: str, parent: Start | None) -> Start | None:
        """The member as an earlier build left it, if that is what this one would make."""
        member, folder = self.kept.get(name), self.out / name
        if member is None:
            return None
        if member.stage_hash != stage_hash:
            self.tell(f"{name}: its recipe, data or start changed, so it is made again")
            return None
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            weights = weights_hash(folder)
        except (OSError, ValueError, GeometryBenchError):
            self.tell(f"{name}: its files are not as they were written, so it is made again")
            return None
        if weights != member.weights or facts.get("parent_weights") != (parent.weights if parent else None):
            self.tell(f"{name}: its weights or those it starts from changed, so it is made again")
            return None
        return Start(member, str(folder), None, stage_hash, weights)

    def _write(self) -> Family:
        """The manifest of what is finished now; entries of an earlier build stay while what they start from stays."""
        members = {name: start.member for name, start in self.starts.items()}
        for name, member in self.kept.items():
            if name not in members and self._still_good(member):
                members[name] = member
        order = ["base", *(planned.name for planned in self.recipe.members())]
        listed = tuple(sorted(members.values(), key=lambda m: order.index(m.name) if m.name in order else len(order)))
        name = self.recipe.name if self.recipe.makes_base else self.out.resolve().name
        name = re.sub(r"[^A-Za-z0-9._-]", "-", name) or self.recipe.name
        family = Family(name, self.out / MANIFEST, listed, self.recipe.name, self.recipe.hash())
        write_atomically(family.path, dump_family(family))
        return family

    def _still_good(self, member: Member) -> bool:
        """Whether an entry that this run has not come to can stay in the manifest."""
        if member.parent is None:
            return False
        parent = self.starts.get(member.parent)
        if parent is None:
            kept = self.kept.get(member.parent)
            return kept is not None and self._still_good(kept)
        if member.stage_hash is None:  # a model of the user's
            return True
        try:
            facts = json.loads((self.out / member.name / FACTS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(facts.get("parent_weights") == parent.weights)

    # Making

    def _make(self, planned: Planned, parent: Start | None, stage_hash: str) -> Start:
        import torch

        from geometry_bench.training.trainers import train

        began = time.monotonic()
        name, stage = planned.name, planned.stage
        folder = self.out / name
        if folder.exists() and not (folder / FACTS).is_file():
            raise GeometryBenchError(f"{folder} exists and was not made by a build; move it or choose another --out.")
        work = self.out / WORK / name
        model, tokenizer = self._new(stage) if parent is None else _load(parent, stage)
        rows = self._rows(stage, name, tokenizer, model)
        if rows.dropped:
            longest = _longest(stage, model)
            self.tell(f"{name}: {rows.dropped} rows left out, as their prompts fill the {longest} tokens allowed")
        parent_weights = parent.weights if parent is not None else None
        _only_own_checkpoints(work, {"stage": stage_hash, "data": rows.hash, "parent": parent_weights})
        torch.manual_seed(stage.training.get("seed", 42))
        outcome = train(stage, name, model, tokenizer, rows, work, scale=self.scale)
        self.stopped = outcome.stopped
        facts = {
            "role": stage.role,
            "method": stage.method,
            "alignment": stage.alignment,
            "parent": planned.parent,
            "parent_weights": parent_weights,
            "rows": len(rows),
            "rows_left_out": rows.dropped,
            "tokens": rows.tokens,
            "tokens_with_loss": rows.learnt,
            "steps": outcome.steps,
            "steps_scale": self.scale,
            "training": dict(stage.training),
            "data": [source.declared() for source in stage.data],
        }
        made = self.out / WORK / f"{name}.made"
        shutil.rmtree(made, ignore_errors=True)
        try:
            _save(model, tokenizer, made, stage.training.get("save_dtype", "float32"))
            write_atomically(made / FACTS, json.dumps(facts, indent=2, default=dict) + "\n")
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(made, folder)
        except OSError as error:
            raise GeometryBenchError(f"{folder} cannot be written ({error.strerror or error}).") from error
        shutil.rmtree(work, ignore_errors=True)
        weights = weights_hash(folder)
        member = Member(
            name=name,
            role=stage.role,
            model=name,
            parent=planned.parent,
            alignment=stage.alignment,
            method=stage.method,
            data_hash=rows.hash,
            stage_hash=stage_hash,
            weights=weights,
        )
        minutes = (time.monotonic() - began) / 60
        resumed = f", resumed at step {outcome.resumed_at}" if outcome.resumed_at else ""
        loss = "" if outcome.loss is None else f", loss {outcome.loss:.3f}"
        self.tell(f"{name}: {outcome.steps} steps{resumed}, {rows.tokens:,} tokens{loss}, {minutes:.1f} min")
        return Start(member, str(folder), None, stage_hash, weights)

    def _rows(self, stage: Stage, name: str, tokenizer: Any, model: Any) -> Rows:
        """The stage's rows, tokenised; a bar counts them."""
        from tqdm import tqdm

        encoder = Encoder(tokenizer, _longest(stage, model))
        drawn = itertools.chain.from_iterable(
            sources.rows(source, stage.method, data=self.data, scale=self.scale) for source in stage.data
        )
        quick = sys.stderr.isatty()
        with tqdm(desc=f"{name}: text", mininterval=0.5 if quick else 30, leave=False, delay=2) as bar:
            if stage.method == "pretrain":
                pack, tokens = stage.pack or 0, stage.tokens or 0  # both are there: the recipe was checked
                batch = int(stage.training.get("per_device_train_batch_size", 8))
                count = max(batch, int(tokens * self.scale) // pack)
                bar.total = count * pack
                return encoder.packed(drawn, pack, count, bar.update)
            make = encoder.preferences if stage.method == "dpo" else encoder.supervised
            rows = make(drawn, bar.update)
        if len(rows) == 0:
            raise GeometryBenchError(
                f"No row of {name} has room for an answer within {_longest(stage, model)} tokens; raise max_length."
            )
        return rows

    def _new(self, stage: Stage) -> tuple[Any, Any]:
        """A new model and its tokenizer."""
        from transformers import AutoTokenizer

        spec, declared = self.recipe.tokenizer, self.recipe.model
        if spec is None or declared is None:
            raise AssertionError("a recipe with a base stage was read without its tables")
        tokenizer: Any
        if spec.shared is not None:
            tokenizer = AutoTokenizer.from_pretrained(_shared_tokenizer(self.out, spec.shared))
        else:
            assert spec.pieces is not None, "checked when the recipe was read"
            rows = itertools.islice(sources.generator(spec.generator)("train", spec.seed), spec.documents)
            tokenizer = train_tokenizer(rows, spec.pieces)
        return new_model(declared, self.recipe.spread, tokenizer, stage.training.get("seed", 42)), tokenizer


@functools.cache
def _sample_hash(name: str, seed: int, count: int) -> str:
    """Hash of a generator's first rows."""
    rows = itertools.islice(sources.generator(name)("train", seed), count)
    return digest_bytes(json.dumps(row, sort_keys=True).encode() for row in rows)


# Models


def new_model(declared: Mapping[str, Any], spread: float, tokenizer: Any, seed: int) -> Any:
    """A causal model of the declared type with matrices drawn from N(0, spread / sqrt(fan in)).

    Input and output embedding are one matrix unless the declaration says otherwise. The matrices that write into the
    residual stream are smaller by sqrt(2 blocks). Raises GeometryBenchError for an
    unknown type or arguments that the architecture refuses.
    """
    import math

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    arguments = {"tie_word_embeddings": True, **{key: value for key, value in declared.items() if key != "type"}}
    try:
        config = AutoConfig.for_model(
            declared["type"],
            **arguments,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        torch.manual_seed(seed)
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise GeometryBenchError(
            f"[model] of the recipe does not make a model: {str(error).splitlines()[0]}"
        ) from error
    writers = ("o_proj.weight", "down_proj.weight", "attention.dense.weight", "dense_4h_to_h.weight")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() < 2:
                continue
            width = spread / math.sqrt(weight.shape[1])
            if name.endswith(writers):
                width /= math.sqrt(2 * config.num_hidden_layers)
            weight.normal_(0, width)
    return model


def _load(start: Start, stage: Stage) -> tuple[Any, Any]:
    """The stored weights of the start, in float32 unless the stage says otherwise: an update is what lies between two
    stored members."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = getattr(torch, stage.training.get("train_dtype", "float32"), None)
    if not isinstance(dtype, torch.dtype):
        raise GeometryBenchError(f"train_dtype of the stage {stage.role} is no dtype; use float32 or bfloat16.")
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(start.place, revision=start.revision or "main", dtype=dtype)
        tokenizer: Any = AutoTokenizer.from_pretrained(start.place, revision=start.revision or "main")
    except (OSError, ValueError) as error:
        raise GeometryBenchError(
            f"Cannot load {start.member.name} from {start.place} to train on: {str(error).splitlines()[0]}"
        ) from error
    return model, tokenizer


def _save(model: Any, tokenizer: Any, folder: Path, dtype: str) -> None:
    """Safetensors rounded to ``dtype``, the tokenizer with its template, and how generation ends."""
    import torch

    stored = getattr(torch, dtype)
    model = model.to("cpu", stored)
    model.config.dtype = stored
    model.config.use_cache = True
    generation = model.generation_config
    ends = generation.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    if tokenizer.eos_token_id not in ends:
        ends.insert(0, tokenizer.eos_token_id)
    generation.eos_token_id = ends[0] if len(ends) == 1 else ends
    generation.pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    try:
        generation.validate(strict=True)
    except ValueError:  # published bases name a temperature without sampling, which cannot be saved again
        generation.do_sample = True
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def weights_hash(folder: Path) -> str:
    """``"sha256:" + 64 hex digits`` of the weight file; of several, over their names and hashes."""
    files = hashing.weight_files(folder)
    if len(files) == 1:
        return f"sha256:{hashing.file_hash(files[0])}"
    return "sha256:" + digest_bytes(f"{file.name}\0{hashing.file_hash(file)}\n".encode() for file in files)


def _longest(stage: Stage, model: Any) -> int | None:
    """Longest row in tokens: what the recipe says, never more than the model has positions for."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limits = [limit for limit in (stage.training.get("max_length"), positions) if isinstance(limit, int)]
    return min(limits) if limits else None


def _shared_tokenizer(out: Path, name: str) -> Path:
    """The folder of another family's base beside ``out``, or of an embedded one of that name."""
    places = [out.resolve().parent / name / "base", data_root() / "fixtures" / "zoo" / name / "base"]
    for place in places:
        if place.is_dir() and has_tokenizer(place):
            return place
    raise GeometryBenchError(
        f"The tokenizer of the family {name} is wanted, but {places[0]} holds none; build it first."
    )


# The folder


def _only_own_checkpoints(work: Path, key: dict[str, Any]) -> None:
    """Keep the checkpoints of exactly this stage on exactly this data and start; clear any others."""
    note = work / "stage.json"
    try:
        same = json.loads(note.read_text()) == key
    except (OSError, ValueError):
        same = False
    if not same:
        shutil.rmtree(work, ignore_errors=True)
        write_atomically(note, json.dumps(key))


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
