"""Makes the quickstart's records: python make_data.py writes train.jsonl and heldout.jsonl.

Records are {question, context, answer}. The same seed makes the same files on every machine.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from tables import Condition, Purpose, Query, draw_query, draw_table

HERE = Path(__file__).parent
NUM_TRAIN, NUM_HELDOUT = 2000, 200

_COLUMN = (
    "What is the {c}",
    "Show the {c}",
    "Which {c} is listed",
    "Give me the {c}",
    "Find the {c}",
)
_HEADS = {
    "column": _COLUMN,
    "most": _COLUMN,
    "least": _COLUMN,
    "distinct": (
        "What are the different {c} values", "List each {c} once", "Name every distinct {c}",
    ),
    "count": ("How many rows are there", "Count the rows", "What is the number of rows"),
    "MAX": ("What is the highest {c}", "Find the maximum {c}", "Give the largest {c}"),
    "MIN": ("What is the lowest {c}", "Find the minimum {c}", "Give the smallest {c}"),
    "AVG": ("What is the average {c}", "Find the mean {c}", "Give the average of {c}"),
    "SUM": ("What is the total {c}", "Find the sum of {c}", "Add up the {c}"),
}  # fmt: skip
_ORDERS = {
    "most": ("with the highest {o}", "that has the most {o}", "with the largest {o}"),
    "least": ("with the lowest {o}", "that has the least {o}", "with the smallest {o}"),
}
_CONDITIONS = {
    "=": ("{c} is {v}", "{c} equals {v}", "the {c} is {v}"),
    ">": ("{c} is over {v}", "{c} is more than {v}", "{c} is above {v}"),
    "<": ("{c} is under {v}", "{c} is less than {v}", "{c} is below {v}"),
}


def ask(random: Random, query: Query) -> str:
    """The query as a question; the table is not named."""
    text = random.choice(_HEADS[query.form]).format(c=query.column)
    if query.order:
        text += " " + random.choice(_ORDERS[query.form]).format(o=query.order)
    if query.conditions:
        text += f" {random.choice(('where', 'when', 'if'))} "
        text += " and ".join(_phrase(random, condition) for condition in query.conditions)
    return text + ("?" if text.startswith(("What", "Which", "How")) else ".")


def _phrase(random: Random, condition: Condition) -> str:
    phrase = random.choice(_CONDITIONS[condition.operator])
    return phrase.format(c=condition.column, v=condition.value)


def make_records(purpose: Purpose, num_records: int) -> list[dict[str, str]]:
    """Records whose names are of one purpose."""
    random = Random(f"quickstart {purpose}")
    records = []
    for _ in range(num_records):
        table = draw_table(random, purpose)
        query = draw_query(random, table)
        question = ask(random, query)
        records.append({"question": question, "context": table.schema(), "answer": query.sql()})
    return records


def render(records: list[dict[str, str]]) -> str:
    """The records as JSON lines."""
    return "".join(json.dumps(record) + "\n" for record in records)


def main() -> None:
    """Writes both files beside this one."""
    for purpose, num_records in (("train", NUM_TRAIN), ("heldout", NUM_HELDOUT)):
        text = render(make_records(purpose, num_records))
        (HERE / f"{purpose}.jsonl").write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
