"""Bytes that changed or are missing: the file is named, the checkpoint set aside, the one before it
is used; and the run that goes on from there is as if nothing had happened.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from ft.train.checkpoint import MANIFEST, CheckpointFolder
from programme.bench import KINDS, Bench, Outcome

NUM_OFFSETS = 10
Damage = Callable[[Path, float], None]


def flip(path: Path, share: float) -> None:
    """Changes one bit, so far into the file."""
    content = bytearray(path.read_bytes())
    content[int(share * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def cut(path: Path, share: float) -> None:
    """Keeps so much of it, and never all."""
    path.write_bytes(path.read_bytes()[: int(share * (path.stat().st_size - 1))])


def grow(path: Path, share: float) -> None:
    """Puts a byte in."""
    content = path.read_bytes()
    at = int(share * len(content))
    path.write_bytes(content[:at] + b"\0" + content[at:])


def remove(path: Path, share: float) -> None:
    """Takes it away."""
    path.unlink()


DAMAGES: dict[str, Damage] = {"flip": flip, "cut": cut, "grow": grow, "remove": remove}


def damaged_files(bench: Bench, kind: str) -> Outcome:
    """Damages every file of a real checkpoint in every way, at ten places each."""
    keys = KINDS[kind] | {"save_steps": 1, "max_steps": 3, "eval_steps": None}
    source = bench.reference(f"damage-{kind}", **keys) / "checkpoints"
    names = sorted(path.name for path in (source / "step-000003").iterdir())
    outcome, folder = Outcome(), bench.folder / f"damage-{kind}"
    outcome.expect(
        {"optimizer.safetensors", "trainer_state.json", MANIFEST} < set(names), f"{names}"
    )
    for name in names:
        for how, damage in DAMAGES.items():
            for number in range(1 if damage is remove else NUM_OFFSETS):
                shutil.rmtree(folder, ignore_errors=True)
                shutil.copytree(source, folder)
                damage(folder / "step-000003" / name, number / (NUM_OFFSETS - 1))
                _require_found(outcome, folder, name, f"{how} {name} at {number}")
    shutil.rmtree(folder)
    return outcome


def _require_found(outcome: Outcome, folder: Path, name: str, what: str) -> None:
    told: list[tuple[str, str]] = []
    checkpoints = CheckpointFolder(folder, keep=None)
    found = checkpoints.newest(lambda path, why: told.append((path.name, why)))
    step = None if found is None else found.state.step
    is_right = step == 2 and [path for path, _ in told] == ["step-000003"]
    is_named = bool(told) and (name in told[0][1] or name == MANIFEST)
    is_aside = (folder / "broken-step-000003").is_dir() and not (folder / "step-000003").exists()
    outcome.counts["damages"] += 1
    outcome.expect(
        is_right and is_named and is_aside, f"{what}: step {step} is used, told {told}", found=1
    )
