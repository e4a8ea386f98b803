"""What leaves the machine with a config: no path of it, no secret."""

from pathlib import Path
from typing import Any

import pytest

from sae_lens_meta.credentials import REMOVED
from sae_lens_meta.publishing.scrub import scrubbed


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/home/ada/runs/joint", "joint"),
        ("/home/ada lovelace/runs/text.jsonl.gz", "text.jsonl.gz"),
        ("../shared/corpus.jsonl.gz", "corpus.jsonl.gz"),
        ("./runs/joint/", "joint"),
        ("~/models/smollm2", "smollm2"),
        (r"C:\Users\Ada\runs\joint", "joint"),
        ("file:///home/ada/text.txt", "text.txt"),
        ("train --output /home/ada/out --k 32", "train --output out --k 32"),
        ("see '/srv/data/x.txt', and ~/notes.md.", "see 'x.txt', and notes.md."),
        (f"in {Path.home()}/x", "in x"),
        (f"-I{Path.home()}/x", "-I~/x"),
        ("json:/home/ada/x.json", "json:x.json"),
        ("~ada/runs/x", "x"),
        ("--data=/home/ada/x", "--data=x"),
        ("//nas01/share/runs/corpus.jsonl.gz", "corpus.jsonl.gz"),
        ("from //nas01/share/x.txt, of //nas01/y", "from x.txt, of y"),
        (r"\\nas01\share\runs\x.txt", "x.txt"),
        (r"--data \\nas01\share\x.txt --k 3", "--data x.txt --k 3"),
        (r"--data \\\\nas01\\share\\x.txt --k 3", "--data x.txt --k 3"),
        (r"--data \\?\C:\Users\Ada\x.txt --k 3", "--data x.txt --k 3"),
        (r"--data C:\\Users\\Ada\\x.txt --k 3", "--data x.txt --k 3"),
        (r"\\nas01\share", "share"),
        ("smb://nas01/share/x.txt", "x.txt"),
        ("sqlite:////home/ada/x.db", "x.db"),
        # what is no path stays
        ("HuggingFaceFW/fineweb", "HuggingFaceFW/fineweb"),
        ("https://arxiv.org/abs/2604.03436", "https://arxiv.org/abs/2604.03436"),
        ("blocks.20.hook_resid_pre", "blocks.20.hook_resid_pre"),
        ("meta SAE 1,800 / 8, and/or 3/4", "meta SAE 1,800 / 8, and/or 3/4"),
        ("runs/joint", "runs/joint"),
        ("https://ada:pass@host.org/x", "https://host.org/x"),
        ("https://ada:p@ss/w@host.org/x", "https://host.org/x"),
        ("https://host.org/org@rev", "https://host.org/org@rev"),
        ("12 ~ 2, google/gemma-2-9b", "12 ~ 2, google/gemma-2-9b"),
        ("http://host:8000/org/x@rev", "http://host:8000/org/x@rev"),
        ("postgres://:pass@host/x", "postgres://host/x"),
        ("s3://bucket/x, hf://datasets/x", "s3://bucket/x, hf://datasets/x"),
        ("// a note on a/b", "// a note on a/b"),
        (
            r"^blocks\.\d+\.hook_resid_(pre|post)$",
            r"^blocks\.\d+\.hook_resid_(pre|post)$",
        ),
        (r"\d+ (\w+)\.x [^/]+/.* \\.\\d", r"\d+ (\w+)\.x [^/]+/.* \\.\\d"),
    ],
)
def test_of_a_path_only_its_end_stays(value: str, expected: str) -> None:
    assert scrubbed(value) == expected


@pytest.mark.parametrize("home", ["/", "/home/ada"])
def test_a_home_is_no_prefix_of_other_words(
    monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.setenv("HOME", home)
    assert scrubbed("google/gemma-2-9b, 12 / 2") == "google/gemma-2-9b, 12 / 2"
    assert scrubbed("-I/home/adam/x") == "-I/home/adam/x"


def test_secrets_are_removed_wherever_they_stand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("HF_TOKEN", "a-token-of-no-usual-form")
    monkeypatch.setenv("OTHER_SECRET", "0123456789abcdef-and-more")
    monkeypatch.setenv("SORT_KEY", "blocks.0.hook")
    found: Any = scrubbed(
        {
            "hf_token": "anything",
            "wandb_api_key": "anything",
            "wandb-api-key": "anything",
            "aws_secret_access_key": "anything",
            "hfToken": "anything",
            "private_key": "anything",
            "credentials": {"user": "ada"},
            "password": "anything",
            "sequence_separator_token": "<|endoftext|>",
            "training_tokens": 5,
            "nested": [
                {"note": "key 0123456789abcdef, a-token-of-no-usual-form"},
                "0123456789abcdef-and-more",
            ],
            "header": "Bearer hf_abcdefghijklmnopqrst",
            "others": "AKIAABCDEFGHIJKLMNOP xoxb-abcdefghijklmnopq",
            "url": "https://host.org/x?token=abc",
            "hook_name": "blocks.0.hook",
        }
    )
    assert found == {
        "sequence_separator_token": "<|endoftext|>",
        "training_tokens": 5,
        "nested": [{"note": f"key {REMOVED}, {REMOVED}"}, REMOVED],
        "header": f"Bearer {REMOVED}",
        "others": f"{REMOVED} {REMOVED}",
        "url": f"https://host.org/x?token={REMOVED}",
        "hook_name": "blocks.0.hook",
    }


VARIABLES = [
    "HUGGINGFACE_TOKEN",
    "MY_SERVICE_TOKEN",
    "CI_TOKEN_2",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "OPENAI_API_KEY",
    "AZURE_OPENAI_KEY",
    "AZURE_STORAGE_CONNECTION_STRING",
    "GITHUB_PAT",
    "SMTP_PASS",
    "MYSQL_PWD",
    "DB_PASSWORD",
    "GPG_PASSPHRASE",
    "myServiceToken",
]


@pytest.mark.parametrize("name", VARIABLES)
def test_the_value_of_a_secret_variable_is_removed(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "s3cr/et.Value")
    assert scrubbed(["x_s3cr/et.Value_y"]) == [f"x_{REMOVED}_y"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SORT_KEY", "blocks.0.hook_resid_pre"),
        ("TOKENIZERS_PARALLELISM", "training"),
        ("MAX_TOKENS", "100000000"),
        ("EOS_TOKEN", "<|endoftext|>"),
        ("PAD_TOKEN", "[PADDING]"),
        ("PWD", "blocks.0.hook_resid_pre"),
        ("COMPASS", "training"),
        ("DB_PASSWORD", "training"),  # a word: only where it stands alone
        ("USE_TOKEN", "on"),
    ],
)
def test_the_value_of_another_variable_stays(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    config = {
        "training_tokens": "100000000",
        "hook_name": "blocks.0.hook_resid_pre",
        "sequence_separator_token": "<|endoftext|>",
        "pad": "[PADDING]",
        "note": "on",
    }
    assert scrubbed(config) == config


JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0T"
LONG = "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8"
FORMS = [
    JWT,
    JWT.rpartition(".")[0] + ".",  # not signed
    f"hf_{LONG}",
    f"npm_{LONG}",
    f"pypi-AgEIcHlwaS5vcmcC{LONG}",
    f"ghp_{LONG}",
    f"github_pat_{LONG}_{LONG}",
    f"glpat-{LONG[:20]}",
    f"glpat-{LONG[:27]}.01.{LONG[:9]}",
    f"xoxb-123456789012-1234567890123-{LONG[:24]}",
    f"xapp-1-A0123456789-1234567890123-{LONG}",
    f"AIza{LONG[:35]}",
    f"GOCSPX-{LONG[:28]}",
    f"ya29.{LONG}",
    "sk_live_" + LONG[:24],
    "rk_test_" + LONG[:24],
    f"sk-{LONG}",
    f"sk-proj-{LONG[:12]}-{LONG[:12]}_{LONG[:12]}",
    f"sk-ant-api03-{LONG[:12]}-{LONG[:12]}_{LONG[:12]}",
    "ASIAABCDEFGHIJKLMNOP",
    f"-----BEGIN RSA PRIVATE KEY-----\n{LONG}\n-----END RSA PRIVATE KEY-----",
    f"-----BEGIN OPENSSH PRIVATE KEY-----\n{LONG}",
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form[:16])
def test_a_token_of_a_usual_form_is_removed_and_what_is_around_it_stays(
    form: str,
) -> None:
    assert scrubbed(form) == REMOVED
    assert scrubbed(f"run_{form}") == f"run_{REMOVED}"
    if "BEGIN" not in form and not form.endswith("."):
        assert scrubbed(f"with '{form}', as x") == f"with '{REMOVED}', as x"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            f"https://a.blob.core.windows.net/c/x?sv=2022&sig={LONG}%3D&se=2",
            f"https://a.blob.core.windows.net/c/x?sv=2022&sig={REMOVED}&se=2",
        ),
        (
            f"https://b.s3.amazonaws.com/x?X-Amz-Signature={LONG}&x=1",
            f"https://b.s3.amazonaws.com/x?X-Amz-Signature={REMOVED}&x=1",
        ),
        (f"AccountName=a;AccountKey={LONG}==", f"AccountName=a;AccountKey={REMOVED}"),
        ("train --hf-token abc --k 3", f"train --hf-token {REMOVED} --k 3"),
        ("MY_API_KEY='abc' train", f"MY_API_KEY='{REMOVED}' train"),
        (f"MY_SERVICE_TOKEN={LONG} train", f"MY_SERVICE_TOKEN={REMOVED} train"),
        (
            "https://hooks.slack.com/services/T0/B0/abc",
            f"https://hooks.slack.com/{REMOVED}",
        ),
        ("Authorization: Basic YWRhOnBhc3M=", f"Authorization: Basic {REMOVED}"),
        (f"Bearer {LONG}", f"Bearer {REMOVED}"),
    ],
)
def test_a_secret_is_known_by_what_stands_before_it(text: str, expected: str) -> None:
    assert scrubbed(text) == expected


def test_what_only_looks_like_a_secret_stays() -> None:
    harmless = {
        "bos_token": "<|begin_of_text|>",
        "pad_token": "[PAD]",
        "sequence_separator_token": "bos",
        "special_token": "end-of-a-very-long-text",
        "training_tokens": 1_000_000,
        "n_batches_per_token": 5,
        "hook_name": "blocks.20.hook_resid_pre",
        "module": "model.layers.11.self_attn.o_proj",
        "release": "metasae-smollm2-135m-instruct-l11",
        "stock_release": "gpt2-small-res-jb-feature-splitting",
        "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "packages": "sk-learn-gradient-boosting, hf_hub_download_with_retries, pypi-index",
        "command": "train --token_count 5 --eos_token=<|endoftext|> key=lambda sig=0.05",
        "note": "F1 per token: 0.98; Basic training, Bearer of news; eyJ and risk-taking",
        "base64": "TWFueSBoYW5kcyBtYWtlIGxpZ2h0IHdvcmsu",
    }
    assert scrubbed(harmless) == harmless


def test_an_entry_with_a_secrets_name_is_left_out() -> None:
    left_out = {
        "HUGGINGFACE_TOKEN": "anything",
        "serviceToken": "anything",
        "my_own_token": LONG,
        "Authorization": "anything",
        "db_passphrase": "anything",
    }
    assert scrubbed(left_out | {"k": 3}) == {"k": 3}
