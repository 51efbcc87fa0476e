"""Secrets in a config are refused, and never shown again."""

import pytest

from ft.runtime import UserError
from ft.spec import load_spec
from ft.spec.key_table import key_table
from ft.spec.secrets import hide, names_a_secret

SMALL = "base_model: some/model\nlearning_rate: 2e-4\ndatasets:\n  - path: data.jsonl\n"
TOKEN = "hf_" + "aB3x" * 8


def refusal(tmp_path, text, arguments=()):
    (tmp_path / "c.yml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_spec(tmp_path / "c.yml", arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "secret", "instead"),
    [
        (f"hf_token: {TOKEN}", TOKEN, "hf auth login"),
        ("hf_token: short", "short", "HF_TOKEN"),
        ("hub_token: abc123", "abc123", "HF_TOKEN"),
        ("wandb_api_key: 0123456789abcdef", "0123456789abcdef", "WANDB_API_KEY"),
        ("wandb_key: 0123456789abcdef", "0123456789abcdef", "WANDB_API_KEY"),
        ("swanlab_api_key: 0123456789abcdef", "0123456789abcdef", "SWANLAB_API_KEY"),
        ("mlflow_tracking_uri: https://us:hunter2@host/x", "hunter2", "MLFLOW_TRACKING_PASSWORD"),
        ("openai_api_key: anything", "anything", "OPENAI_API_KEY"),
        ("aws_secret_access_key: abc/def", "abc/def", "AWS_SECRET_ACCESS_KEY"),
        ("api_key: abc123", "abc123", "environment"),
        ("password: 'two words'", "two words", "environment"),
        ("special_tokens: {hf_token: deep}", "deep", "HF_TOKEN"),
        (f"hf_use_auth_token: {TOKEN}", TOKEN, "hf auth login"),
        (f"output_dir: runs/{TOKEN}", TOKEN, "hf auth login"),
        (f"tokens: [a, {TOKEN}]", TOKEN, "hf auth login"),
        (f"lora_r: {TOKEN}", TOKEN, "hf auth login"),
        (f"{TOKEN}: 1", TOKEN, "hf auth login"),
        ("output_dir: https://me:pa55@example.org/x", "pa55", "address"),
        ("output_dir: https://pa55w0rd@example.org/x", "pa55w0rd", "address"),
        ("output_dir: s3://bucket/x?token=pa55", "pa55", "address"),
        ("adapter: sk-" + "abcd" * 8, "abcdabcd", "OPENAI_API_KEY"),
        ("tokens: [ghp_" + "Ab1" * 10 + "]", "Ab1Ab1", "GITHUB_TOKEN"),
    ],
)
def test_is_refused_without_being_shown(tmp_path, line, secret, instead):
    said = refusal(tmp_path, SMALL + line + "\n")
    assert secret not in said
    assert instead in said
    assert "c.yml:5:" in said


@pytest.mark.parametrize(
    "text",
    [
        SMALL + f"hf_token: {TOKEN}\nhf_token: {TOKEN}\n",  # a duplicate
        SMALL + f"hf_token: [{TOKEN}\n",  # broken YAML
        SMALL + f"\thf_token: {TOKEN}\n",
        SMALL + f"  hf_token: {TOKEN}\n",
        f"base_model: x\nlearning_rate: 1\ndatasets: {{hf_token: {TOKEN}}}\n",  # a wrong type
        f"base_model: {{a: {TOKEN}, b: [{TOKEN}]}}\n",
        f"- {TOKEN}\n",
        TOKEN,
        SMALL + f"optimizer: {TOKEN}\nlr_scheduler: {TOKEN[:40]}\n",
    ],
)
def test_no_other_mistake_shows_it(tmp_path, text):
    assert TOKEN[:20] not in refusal(tmp_path, text)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--hf-token", TOKEN],
        [f"--hf-token={TOKEN}"],
        ["--hf-token", "[unclosed-secret"],
        ["--wandb-api-key", "unclosed-secret"],
        ["--output-dir", TOKEN],
        [TOKEN],
        ["--datasets.9.path", TOKEN],
    ],
)
def test_options_too(tmp_path, arguments):
    said = refusal(tmp_path, SMALL, arguments)
    assert TOKEN not in said
    assert "unclosed-secret" not in said


def test_each_is_told_beside_the_other_mistakes(tmp_path):
    said = refusal(tmp_path, SMALL + f"hf_token: {TOKEN}\nlora_rr: 1\n")
    assert "c.yml:5:1: hf_token is a secret" in said
    assert "did you mean lora_r?" in said


def test_what_only_resembles_one_is_taken(tmp_path):
    (tmp_path / "c.yml").write_text(
        SMALL.replace("data.jsonl", "hf://datasets/me/set@main/data.jsonl")
        + "revision_of_model: 0123456789abcdef0123456789abcdef01234567\n"
        + "output_dir: ./hf_models_of_a_long_and_winding_name\n"
        + "special_tokens: {eos_token: </s>}\n"
        + "tokens: [<secret>, api_key, password]\n"
        + "hf_use_auth_token: true\n"
    )
    load_spec(tmp_path / "c.yml")


def test_no_key_of_the_dialect_is_one_by_its_name():
    names = {name.rsplit(".", 1)[-1] for name in key_table()}
    assert not [name for name in names if names_a_secret(name, names)]


def test_hide():
    assert hide(f"got '{TOKEN}' and x") == "got '***' and x"
    assert hide("https://a:b@c/d") == "https://***@c/d"
    assert hide("nothing here: eos_token: </s>") == "nothing here: eos_token: </s>"
