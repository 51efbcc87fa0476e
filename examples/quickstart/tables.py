"""Invented tables and queries: what the quickstart's data and its base's texts are both made of.

A name is two or three word parts, `harbor_mark` or `stonelight`. Every name belongs to one of three
purposes for good, decided by its checksum, so no table or column of the held-out records is ever
seen before: it must be copied from the context.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from random import Random
from typing import Literal

Purpose = Literal["base", "train", "heldout"]

_WORDS = """
acre amber anchor apple arch arrow ash badge bank barn basil bay beacon bell berry birch bird
blade block bloom boat bolt bone book bow brass bread brick bridge brook cabin cable camp candle
cape card cedar chain chalk charm chart cliff clock cloud clover coal coast coin copper coral cork
corn court crane creek crest crop crow crown cup dawn deer delta desk dew dock dove drum dune dust
eagle earth echo elm ember falcon farm fern field fig finch flag flame flax fleet flint flock
flour forest forge fox frost fruit garden gate glass globe gold grain grape grass grove gull
harbor harp hawk hay hazel hearth heron hill honey horn ice inlet iron island ivory ivy jade
kettle key kiln lace lake lamp lane lantern lark leaf lemon light lily linen lion loft loom lotus
maple marsh meadow mill mint mist moon moss mule nest north oak ocean olive onyx opal orchard
otter owl palm paper path peak pearl pebble pepper pine plum pond port quartz quill rain raven
reed reef ridge ring river robin rock root rope rose sage sail salt sand scale seal seed shade
shell ship silk silver sky slate smoke snow south spark spice spring star steel stone storm straw
swan table tide tiger timber torch tower trail tulip valley velvet vine violet wagon walnut wave
wheat wheel willow wind wing wolf wood wool
"""
PARTS = tuple(_WORDS.split())

_PURPOSES: tuple[Purpose, ...] = (
    "heldout", "train", "train", "train", "base", "base", "base", "base", "base", "base",
)  # fmt: skip


def purpose_of(name: str) -> Purpose:
    """The only purpose that a name is ever used for."""
    return _PURPOSES[zlib.crc32(name.encode()) % len(_PURPOSES)]


def draw_name(random: Random, purpose: Purpose) -> str:
    """A name of that purpose."""
    while True:
        first, second, third = random.sample(PARTS, 3)
        name = random.choice((f"{first}_{second}", f"{first}{second}", f"{first}_{second}{third}"))
        if purpose_of(name) == purpose:
            return name


def draw_text(random: Random) -> str:
    """A value of a text column: `coral`, `Coral` or `Coral Brook`, never a name."""
    first, second = random.sample(PARTS, 2)
    return random.choice((first, first.capitalize(), f"{first.capitalize()} {second.capitalize()}"))


def draw_number(random: Random) -> int:
    """A value of a number column, of one to three digits."""
    return random.randint(1, 10 ** random.randint(1, 3) - 1)


@dataclass(frozen=True)
class Table:
    """A name, number columns and text columns."""

    name: str
    columns: tuple[tuple[str, str], ...]
    """Name and type, in the order of the schema."""

    def schema(self) -> str:
        """`CREATE TABLE ...`."""
        columns = ", ".join(f"{name} {kind}" for name, kind in self.columns)
        return f"CREATE TABLE {self.name} ({columns})"

    def of_type(self, kind: str) -> list[str]:
        """The columns of a type."""
        return [name for name, its_kind in self.columns if its_kind == kind]


def draw_table(random: Random, purpose: Purpose) -> Table:
    """A table of three to five columns, numbers and texts among them."""
    num_columns = random.randint(3, 5)
    names: list[str] = []
    while len(names) <= num_columns:
        name = draw_name(random, purpose)
        if name not in names:
            names.append(name)
    kinds = ["INTEGER", "VARCHAR", *random.choices(("INTEGER", "VARCHAR"), k=num_columns - 2)]
    random.shuffle(kinds)
    return Table(names[0], tuple(zip(names[1:], kinds, strict=True)))


@dataclass(frozen=True)
class Condition:
    """`column operator value`."""

    column: str
    operator: Literal["=", ">", "<"]
    value: int | str

    def sql(self) -> str:
        """As SQL."""
        value = f'"{self.value}"' if isinstance(self.value, str) else self.value
        return f"{self.column} {self.operator} {value}"


@dataclass(frozen=True)
class Query:
    """What is asked of a table."""

    table: str
    form: str
    """column, distinct, count, MAX, MIN, AVG, SUM, most or least."""
    column: str
    conditions: tuple[Condition, ...] = ()
    order: str = ""
    """The column that `most` and `least` go by."""

    def sql(self) -> str:
        """As SQL."""
        selected = {"column": self.column, "distinct": f"DISTINCT {self.column}",
                    "count": "COUNT(*)", "most": self.column, "least": self.column}  # fmt: skip
        text = f"SELECT {selected.get(self.form, f'{self.form}({self.column})')} FROM {self.table}"
        if self.conditions:
            text += " WHERE " + " AND ".join(condition.sql() for condition in self.conditions)
        if self.order:
            text += f" ORDER BY {self.order} {'DESC' if self.form == 'most' else 'ASC'} LIMIT 1"
        return text


FORMS = ("column", "column", "column", "distinct", "count", "count",
         "MAX", "MIN", "AVG", "SUM", "most", "least")  # fmt: skip


def draw_query(random: Random, table: Table) -> Query:
    """A query that the table can answer."""
    form = random.choice(FORMS)
    numbers = table.of_type("INTEGER")
    names = [name for name, _ in table.columns]
    if form in ("most", "least"):
        order = random.choice(numbers)
        column = random.choice([name for name in names if name != order])
        return Query(table.name, form, column, order=order)
    column = random.choice(numbers if form.isupper() else names)
    num_conditions = 0 if form == "distinct" else random.choice((0, 1, 1, 1, 2))
    if form in ("column", "count"):
        num_conditions = max(num_conditions, 1)
    others = random.sample([name for name in names if name != column], k=min(num_conditions, 2))
    return Query(table.name, form, column, tuple(_condition(random, table, n) for n in others))


def _condition(random: Random, table: Table, column: str) -> Condition:
    if column in table.of_type("VARCHAR"):
        return Condition(column, "=", draw_text(random))
    return Condition(column, random.choice(("=", ">", "<")), draw_number(random))
