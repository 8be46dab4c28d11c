"""The members of a family under construction: which of them are finished, and how each of the others is made.

Imports torch only inside functions.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from geometry_bench.errors import GeometryBenchError
from geometry_bench.resources import data_root
from geometry_bench.storage import digest, digest_bytes, write_atomically
from geometry_bench.subjects import hashing
from geometry_bench.subjects.families import MANIFEST, Family, Member, dump_family, load_family
from geometry_bench.subjects.spec import SubjectSpec, has_tokenizer, resolve
from geometry_bench.training import sources
from geometry_bench.training.checkpoints import only_own
from geometry_bench.training.examples import Encoder, Rows, train_tokenizer
from geometry_bench.training.models import Start, load_start, longest, new_model, save, weights_hash
from geometry_bench.training.recipe import Planned, Recipe, Source, Stage

FACTS = "training.json"
WORK = ".work"
_SAMPLE = 1000

Tell = Callable[[str], None]


class Members:
    """The members that one build makes, takes or finds finished; ``doing`` names the one under way."""

    def __init__(self, recipe: Recipe, out: Path, data: Path | None, scale: float, tell: Tell) -> None:
        self.recipe, self.out, self.data, self.scale, self.tell = recipe, out, data, scale, tell
        self.doing: str | None = None
        self.stopped = False
        self.starts: dict[str, Start] = {}
        before = self._existing()
        self.kept = {member.name: member for member in before.members} if before else {}
        # What a manifest names stays: a user may have written it there.
        named = before if before and before.prompts else recipe
        self.sets, self.pack = named.sets, named.pack

    def _existing(self) -> Family | None:
        """The folder's manifest, whose members are finished."""
        if not (self.out / MANIFEST).exists():
            return None
        try:
            return load_family(self.out)
        except GeometryBenchError as error:
            raise GeometryBenchError(
                f"{self.out / MANIFEST} is there already and cannot be continued ({str(error).rstrip('.')}); remove it or "
                "choose another --out."
            ) from error

    def run(self, plan: Sequence[Planned], base: str | None, given: Mapping[str, str]) -> Family:
        """Go through the plan in its order; the manifest lists what is finished after each."""
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
        recipe = self.recipe
        family = Family(name, self.out / MANIFEST, listed, recipe.name, recipe.hash(), self.sets, self.pack)
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
        model, tokenizer = self._new(stage) if parent is None else load_start(parent, stage)
        rows = self._rows(stage, name, tokenizer, model)
        if rows.dropped:
            self.tell(
                f"{name}: {rows.dropped} rows left out, as their prompts fill the {longest(stage, model)} tokens allowed"
            )
        parent_weights = parent.weights if parent is not None else None
        only_own(work, {"stage": stage_hash, "data": rows.hash, "parent": parent_weights})
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
            save(model, tokenizer, made, stage.training.get("save_dtype", "float32"))
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

        encoder = Encoder(tokenizer, longest(stage, model))
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
                f"No row of {name} has room for an answer within {longest(stage, model)} tokens; raise max_length."
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


def _shared_tokenizer(out: Path, name: str) -> Path:
    """The folder of another family's base beside ``out``, or of an embedded one of that name."""
    places = [out.resolve().parent / name / "base", data_root() / "fixtures" / "zoo" / name / "base"]
    for place in places:
        if place.is_dir() and has_tokenizer(place):
            return place
    raise GeometryBenchError(
        f"The tokenizer of the family {name} is wanted, but {places[0]} holds none; build it first."
    )
