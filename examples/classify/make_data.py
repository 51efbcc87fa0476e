"""Short film reviews whose feeling stands in a word or two; run it to make them anew."""

from __future__ import annotations

import json
import random
from pathlib import Path

FOLDER = Path(__file__).parent
SUBJECTS = ["the film", "this story", "the second half", "the cast", "the ending", "every scene"]
FEELINGS = {
    1: ["a delight", "warm and funny", "worth every minute", "beautifully made", "deeply moving"],
    0: ["a mess", "dull and loud", "a waste of time", "badly acted", "painfully slow"],
}
FRAMES = ["{} is {} .", "i thought {} was {} , and so did my friends .", "in short , {} : {} ."]


def make_records(seed: int, num_records: int) -> list[dict[str, object]]:
    """Records {text, label}, half of each label."""
    rng = random.Random(seed)
    records: list[dict[str, object]] = []
    for number in range(num_records):
        label = number % 2
        text = rng.choice(FRAMES).format(rng.choice(SUBJECTS), rng.choice(FEELINGS[label]))
        records.append({"text": text, "label": label})
    return records


def render(records: list[dict[str, object]]) -> str:
    """As JSON lines."""
    return "".join(json.dumps(record) + "\n" for record in records)


if __name__ == "__main__":
    for seed, name, num_records in ((1, "train", 200), (2, "heldout", 40)):
        (FOLDER / f"{name}.jsonl").write_text(render(make_records(seed, num_records)), "utf-8")
