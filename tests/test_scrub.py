"""What leaves the machine with a config: no path of it, no secret."""

from pathlib import Path
from typing import Any

import pytest

from sae_lens_meta.publishing.scrub import REMOVED, scrubbed


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
