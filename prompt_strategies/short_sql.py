"""A strategy of your own: copy it beside your YAML and say `type: ./short_sql.py`.

A strategy turns one record into segments; what is trained is marked, and the end token goes where
a turn ends. Nothing else is needed: `ft infer` finds the prompt's fields by itself.
"""

from ft.data.segments import Segment


def segments(record: dict[str, str]) -> list[Segment]:
    """Schema and question as SQL comments, the query as the answer."""
    return [
        Segment(f"-- {record['context']}\n-- {record['question']}\n"),
        Segment(record["answer"], is_trained=True, ends_turn=True),
    ]
