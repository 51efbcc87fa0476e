"""Makes what the quickstart's base model is trained from, and packs the trained weights.

    python make_base.py              writes untrained/ (config and tokenizer) and base_texts.jsonl
    ft train pretrain.yml            trains it from random weights into pretrain-out/
    python make_base.py --pack RUN   writes base/ from that run, weights in bf16

The texts are schemas, lists, commented SQL and lists of questions over names of their own. None has
the layout of the task, and no question is followed by its answer: that is what tuning adds.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from make_data import ask
from tables import Query, draw_name, draw_number, draw_query, draw_table, draw_text

HERE = Path(__file__).parent
NUM_TEXTS, NUM_TOKENIZER_TEXTS, VOCABULARY_SIZE = 120_000, 20_000, 2048
END = "<|end|>"
PIECES = r" |\n|\p{N}|\p{L}+|[^\s\p{L}\p{N}]"
"""A space is a token of its own, so a name has the same tokens wherever it stands."""

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 512,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def _echo(random: Random) -> str:
    """Lists of names, said twice: the second time is nothing but copying."""
    names = [draw_name(random, "base") for _ in range(random.randint(3, 7))]
    mark = random.choice((", ", " ", "\n", "; "))
    return f"{mark.join(names)}\n\n{mark.join(names)}"


def _facts(random: Random) -> str:
    """Names with values, recalled in another order."""
    facts = [
        f"{draw_name(random, 'base')} = {random.choice((draw_number, draw_text))(random)}"
        for _ in range(random.randint(3, 5))
    ]
    return "\n".join([*facts, "", *random.sample(facts, len(facts))])


def _schema(random: Random) -> str:
    """A schema and what is in it, in other orders."""
    table = draw_table(random, "base")
    columns = list(table.columns)
    random.shuffle(columns)
    types = [f"{name} is {kind}" for name, kind in columns]
    inserts = ", ".join(name for name, _ in table.columns)
    lines = [f"table {table.name}: {', '.join(name for name, _ in columns)}", "; ".join(types),
             f"INSERT INTO {table.name} ({inserts})"]  # fmt: skip
    return "\n".join([table.schema() + ";", *random.sample(lines, 2)])


def _script(random: Random) -> str:
    """A schema and queries, each after a comment that says what it does."""
    table = draw_table(random, "base")
    lines = [table.schema() + ";"]
    for _ in range(random.randint(1, 3)):
        query = draw_query(random, table)
        lines += [f"-- {_comment(random, query)}", query.sql() + ";"]
    return "\n".join(lines)


def _explained(random: Random) -> str:
    """A schema and queries, each before the question that it answers."""
    table = draw_table(random, "base")
    lines = [table.schema() + ";"]
    for _ in range(random.randint(1, 2)):
        query = draw_query(random, table)
        lines += [query.sql() + ";", f"/* {ask(random, query)} */"]
    return "\n".join(lines)


def _questions(random: Random) -> str:
    """A schema and what could be asked of it, unanswered."""
    table = draw_table(random, "base")
    asked = [ask(random, draw_query(random, table)) for _ in range(random.randint(2, 4))]
    return "\n".join([table.schema(), *asked])


def _comment(random: Random, query: Query) -> str:
    """The question in small letters, without its mark."""
    text = ask(random, query).rstrip("?.")
    return text[0].lower() + text[1:]


KINDS: tuple[tuple[Callable[[Random], str], int], ...] = (
    (_echo, 2), (_facts, 2), (_schema, 2), (_script, 6), (_explained, 2), (_questions, 2),
)  # fmt: skip


def texts(num_texts: int) -> Iterator[str]:
    """The base's texts; the same ones every time."""
    random = Random("quickstart base")
    makers, weights = zip(*KINDS, strict=True)
    for _ in range(num_texts):
        yield random.choices(makers, weights)[0](random)


def make_untrained(folder: Path) -> None:
    """Writes config.json and a tokenizer, and no weights."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(NUM_TOKENIZER_TEXTS), trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
    folder.mkdir(exist_ok=True)
    wrapped.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")


def pack(run: Path, folder: Path) -> None:
    """Copies a pretraining run's model and tokenizer, its weights in bf16."""
    import torch
    from safetensors.torch import load_file, save_file

    folder.mkdir(exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(run / name, folder / name)
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    config |= {"dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    state = load_file(run / "model.safetensors")
    small = {name: tensor.to(torch.bfloat16) for name, tensor in state.items()}
    save_file(small, folder / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    """Writes what pretraining needs, or packs what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", type=Path, metavar="RUN", help="a finished pretraining run")
    run = parser.parse_args().pack
    if run is not None:
        pack(run, HERE / "base")
        return
    make_untrained(HERE / "untrained")
    with (HERE / "base_texts.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts(NUM_TEXTS))


if __name__ == "__main__":
    main()
