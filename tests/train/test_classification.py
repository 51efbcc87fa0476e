"""Classifiers from the YAML to the merged model: one small run, and what must hold of any."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

from ft.cli.planning import show_plan
from ft.evaluate.classifier import open_classifier
from ft.evaluate.compare import compare_with_base
from ft.evaluate.trained import open_run
from ft.model import apply_patches
from ft.model.adapter import Origin, add_adapter
from ft.runtime import RunDirectory, UserError
from ft.runtime.errors import Interrupted
from ft.ship.merged import merge_run
from ft.spec import load_spec
from ft.spec.runspec import AdapterSpec
from runs import curve, events, run, stop_after, write_label_config

WORDS = {"bad": "city", "good": "table"}


def text_of(label):
    return f"How many heads are older than 56 ? {WORDS[label]} context {WORDS[label]}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_encoders):
    """A classifier that learned its two words; the best epoch at its end."""
    folder = tmp_path_factory.mktemp("classifier")
    config = write_label_config(
        folder, tiny_encoders["distilbert"], num_records=40, val_set_size=8, num_epochs=5,
        learning_rate=2e-2,
        eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True,
        metric_for_best_model="accuracy", id2label={0: "bad", 1: "good"}, truncation_side="left",
    )  # fmt: skip
    told = []
    run(config, on_event=told.append)
    return folder / "out", told


def test_it_learns_and_says_how_well(finished):
    out, told = finished
    evaluations = events(out, "evaluation")
    assert evaluations[-1]["eval_accuracy"] == 1.0
    assert evaluations[-1]["f1_of_label"] == {"bad": 1.0, "good": 1.0}
    (bad, no), (nothing, good) = evaluations[-1]["confusion"]
    assert (bad + good, no, nothing) == (8, 0, 0)
    (data,) = [event for event in told if event["event"] == "data"]
    assert "  labels: bad 20 (50%), good 20 (50%)" in data["summary"]


def test_the_best_is_the_first_of_the_highest_accuracy(finished):
    out, _ = finished
    later = events(out, "evaluation")[1:]
    best = max(event["eval_accuracy"] for event in later)
    first = next(event for event in later if event["eval_accuracy"] == best)
    result = RunDirectory(out).read_run()["result"]
    assert (result["best_step"], result["best_loss"]) == (first["step"], first["eval_loss"])


def test_five_records_before_and_after(finished):
    _, told = finished
    (examples,) = [event for event in told if event["event"] == "examples"]
    assert len(examples["before"]) == len(examples["after"]) == 5
    assert [each["text"] for each in examples["before"]] == [
        each["text"] for each in examples["after"]
    ]
    assert all(each["prediction"] == each["label"] for each in examples["after"])
    assert not all(each["prediction"] == each["label"] for each in examples["before"])


def test_it_is_asked_as_it_was_trained(finished):
    out, _ = finished
    classifier = open_classifier(open_run(out))
    told = classifier.predictions([classifier.prompt({}, text=text_of(each)) for each in WORDS])
    assert [each["prediction"] for each in told] == ["bad", "good"]
    assert all(sum(each["probabilities"].values()) == pytest.approx(1) for each in told)
    short = classifier.prompt({}, text=text_of("good"))
    long = classifier.prompt({}, text="city " * 100 + text_of("good"))
    assert len(long) == 32, "cut at sequence_len, as in training"
    assert (long[0], long[-10:]) == (short[0], short[-10:]), "from the left"


def test_the_base_has_the_head_that_training_began_with(finished):
    out, _ = finished
    before = compare_with_base(
        RunDirectory(out), num_records=1, batch_size=4, on_event=lambda event: None
    )
    first = events(out, "evaluation")[0]
    assert before["base"]["eval_loss"] == pytest.approx(first["eval_loss"], rel=1e-6)
    assert before["tuned"]["eval_accuracy"] == 1.0
    assert before["base"]["eval_accuracy"] == first["eval_accuracy"]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_peft_reads_the_run_by_itself(finished, tiny_encoders):
    out, _ = finished
    base = AutoModelForSequenceClassification.from_pretrained(
        tiny_encoders["distilbert"], num_labels=2
    )
    peft_model = PeftModel.from_pretrained(base, out).eval()
    classifier = open_classifier(open_run(out))
    ids = classifier.prompt({}, text=text_of("good"))
    with torch.no_grad():
        theirs = peft_model(input_ids=torch.tensor([ids])).logits.softmax(-1)[0].tolist()
    ours = classifier.predictions([ids])[0]["probabilities"]
    assert list(ours.values()) == pytest.approx(theirs, abs=1e-6)


def test_the_merged_model_tells_the_same(finished):
    out, _ = finished
    lines = merge_run(RunDirectory(out), onto="dequantized", on_event=lambda event: None)
    assert any("same first choice 100.0%" in line for line in lines)
    merged = AutoModelForSequenceClassification.from_pretrained(out / "merged")
    assert merged.config.id2label == {0: "bad", 1: "good"}
    classifiers = [open_classifier(open_run(folder)) for folder in (out, out / "merged")]
    prompt = classifiers[0].prompt({}, text=text_of("good"))
    adapter, whole = (each.predictions([prompt])[0]["probabilities"] for each in classifiers)
    assert list(whole.values()) == pytest.approx(list(adapter.values()), abs=0.02)


def test_prompt_json_says_all_that_asking_takes(finished):
    out, _ = finished
    (layout,) = json.loads((out / "prompt.json").read_text())["layouts"]
    assert layout["id2label"] == {"0": "bad", "1": "good"}
    assert (layout["truncation_side"], layout["sequence_len"]) == ("left", 32)
    assert layout["problem_type"] == "single_label_classification"


@pytest.mark.parametrize("cut", [(1, 4), (4, 1)])
@pytest.mark.parametrize("class_weights", [None, {"good": 3.0}])
def test_a_step_is_the_same_however_it_is_cut(cut, class_weights, tmp_path, tiny_encoders):
    curves = []
    for micro, passes in ((2, 2), cut):
        folder = tmp_path / f"{micro}x{passes}"
        folder.mkdir()
        config = write_label_config(
            folder, tiny_encoders["bert"], num_records=11, micro_batch_size=micro,
            gradient_accumulation_steps=passes, class_weights=class_weights,
        )  # fmt: skip
        run(config)
        curves.append([value for step in curve(folder / "out") for value in step])
    assert curves[0] == pytest.approx(curves[1], rel=2e-5)


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, tiny_encoders):
    curves = []
    for name in ("whole", "stopped"):
        folder = tmp_path / name
        folder.mkdir()
        config = write_label_config(
            folder, tiny_encoders["distilbert"], val_set_size=4, lora_dropout=0.1, eval_steps=2
        )
        if name == "stopped":
            with pytest.raises(Interrupted):
                run(config, on_event=stop_after(2))
        run(config)
        last = events(folder / "out", "evaluation")[-1]
        curves.append((curve(folder / "out"), last["eval_loss"], last["predictions"]))
    assert curves[0] == curves[1]


@pytest.mark.parametrize(
    ("base", "keys"),
    [
        ("roberta", {"lora_target_linear": None}),
        ("bert", {"adapter": "qlora", "load_in_4bit": True}),
        ("distilbert", {"load_in_8bit": True}),
        ("bert", {"adapter": None, "learning_rate": 1e-3}),
        ("distilbert", {"adapter": None, "unfrozen_parameters": ["pre_classifier", "classifier"]}),
        ("llama", {}),
    ],
)
def test_bodies_and_methods(base, keys, tmp_path, tiny_encoders, tiny_llamas):
    folder = {**tiny_encoders, **tiny_llamas}[base]
    config = write_label_config(tmp_path, folder, val_set_size=6, num_epochs=2, **keys)
    run(config)
    out = tmp_path / "out"
    final = events(out, "evaluation")[-1]
    assert final["eval_loss"] != events(out, "evaluation")[0]["eval_loss"]
    classifier = open_classifier(open_run(out))
    prompts = [classifier.prompt({}, text=each["text"]) for each in final["predictions"]]
    if base != "llama":  # its tokenizer gives texts back with another space
        told = classifier.predictions(prompts)
        expected = [each["probabilities"]["good"] for each in final["predictions"]]
        assert [each["probabilities"]["good"] for each in told] == pytest.approx(expected, abs=0.05)


def test_of_several_labels_any_number_is_told(tmp_path, tiny_encoders):
    data = tmp_path / "several.jsonl"
    lines = [
        {"text": "a city", "label": ["city"]},
        {"text": "a city and a table", "label": ["city", "table"]},
        {"text": "a table", "label": ["table"]},
        {"text": "an answer", "label": []},
    ]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines * 10))
    config = write_label_config(
        tmp_path, tiny_encoders["distilbert"], val_set_size=8, num_epochs=12,
        learning_rate=1e-2, class_weights="balanced",
        datasets=[{"path": str(data), "type": "classification"}],
    )  # fmt: skip
    run(config)
    first, *_, final = events(tmp_path / "out", "evaluation")
    assert final["eval_loss"] < 0.95 * first["eval_loss"]
    assert final["eval_f1_micro"] >= first["eval_f1_micro"]
    assert set(final["f1_of_label"]) == {"city", "table"}
    classifier = open_classifier(open_run(tmp_path / "out"))
    told = classifier.predictions([classifier.prompt(line) for line in lines])
    assert all(set(each["prediction"]) <= {"city", "table"} for each in told)
    assert told[0]["probabilities"]["city"] > told[2]["probabilities"]["city"]
    merge_run(RunDirectory(tmp_path / "out"), onto="dequantized", on_event=lambda event: None)


def test_a_number_is_predicted(tmp_path, tiny_encoders):
    data = tmp_path / "numbers.jsonl"
    with data.open("w") as file:
        for i in range(40):
            count = 1 + i % 5
            record = {"review": "table " * count, "stars": count / 2}
            file.write(json.dumps(record) + "\n")
    config = write_label_config(
        tmp_path, tiny_encoders["distilbert"], val_set_size=10, num_epochs=4,
        learning_rate=2e-2, metric_for_best_model="mae", load_best_model_at_end=True, eval_steps=10,
        datasets=[
            {"path": str(data), "type": "classification", "field": "review",
             "field_label": "stars"},
        ],
    )  # fmt: skip
    run(config)
    evaluations = events(tmp_path / "out", "evaluation")
    best = min(evaluations[1:], key=lambda each: each["eval_mae"])
    assert best["eval_mae"] < 0.7 * evaluations[0]["eval_mae"]
    assert RunDirectory(tmp_path / "out").read_run()["result"]["best_step"] == best["step"]
    classifier = open_classifier(open_run(tmp_path / "out"))
    (low, high) = classifier.predictions(
        [classifier.prompt({}, text="table"), classifier.prompt({}, text="table " * 5)]
    )
    assert low["prediction"] < high["prediction"]
    merge_run(RunDirectory(tmp_path / "out"), onto="dequantized", on_event=lambda event: None)


def test_distilbert_has_as_many_parameters_as_published():
    """distilbert-base-uncased, LoRA r=4 on q_lin: PEFT counts the frozen copy of the head, too."""
    apply_patches()
    with torch.device("meta"):
        model = DistilBertForSequenceClassification(DistilBertConfig(num_labels=2))
    spec = AdapterSpec(
        adapter="lora", lora_r=4, lora_alpha=32, lora_dropout=0.01, lora_target_modules=("q_lin",)
    )
    peft_model, _ = add_adapter(
        model, spec, origin=Origin("distilbert-base-uncased"), seed=0, dtype=torch.float32,
        has_new_tokens=False,
    )  # fmt: skip
    sizes = [(p.numel(), p.requires_grad) for p in peft_model.parameters()]
    assert sum(size for size, is_trained in sizes if is_trained) == 628_994
    assert sum(size for size, _ in sizes) == 67_584_004


def test_what_cannot_be_is_refused_before_the_first_step(tmp_path, tiny_encoders):
    base = tiny_encoders["distilbert"]
    for keys, match in [
        ({"sequence_len": 65}, "has 64 positions"),
        ({"num_labels": 3}, "num_labels is 3, and the records have 2 labels: bad, good"),
        ({"class_weights": [1.0]}, "1 weights for 2 labels"),
        ({"class_weights": {"worse": 2.0}}, "no label 'worse'"),
        ({"class_weights": [0.0, 1.0]}, "expected a number over 0"),
        (
            {"metric_for_best_model": "mae", "load_best_model_at_end": True, "val_set_size": 4},
            "measure no 'mae'",
        ),
        (
            {"greater_is_better": True, "load_best_model_at_end": True, "val_set_size": 4},
            "less of a loss is better",
        ),
        ({"id2label": ["bad", "bad"]}, "names that differ"),
        ({"id2label": [{}, "bad"]}, "expected a text"),
        ({"id2label": ["bad", "worse"]}, "unknown label"),
    ]:
        with pytest.raises(UserError, match=match):
            run(write_label_config(tmp_path, base, **keys))
        assert not (tmp_path / "out" / "run.json").exists()


def test_ft_plan_says_that_it_does_not_count_classifiers(tmp_path, tiny_encoders):
    loaded = load_spec(write_label_config(tmp_path, tiny_encoders["bert"]))
    with pytest.raises(UserError, match="not yet those that tell labels"):
        show_plan(loaded, gpu="h200", price=None, as_json=False)
