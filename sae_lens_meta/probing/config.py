"""What to probe for, and how."""

from dataclasses import dataclass
from pathlib import Path

from sae_lens_meta.probing.labels import LabelKind


@dataclass
class ProbeConfig:
    """
    What to probe for, and how.

    Args:
        labels (tuple): Kinds of labels: first_letter and token_class, computed from the tokens of any
            text; part_of_speech, of the Brown corpus, whose folder is the --dataset; spans, of a
            labelled .jsonl that is the --dataset.
        hierarchy (Path | None): JSON file of labels and their parents, {"child": "parent"}, besides
            those that names say: noun/plural is a kind of noun.
        output (Path): Folder that receives probe.json and probe.svg.
        overwrite (bool): Replace what was written there before.
        min_tokens (int): Tokens of each part of the text that a label must hold on to be probed for.
        seed (int): Of the control's directions and of the shuffled labels.
    """

    labels: tuple[LabelKind, ...] = ("first_letter", "token_class")
    hierarchy: Path | None = None
    output: Path = Path("probe")
    overwrite: bool = False
    min_tokens: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        if self.min_tokens < 1:
            raise ValueError(f"min_tokens must be at least 1, got {self.min_tokens}.")
        if not self.labels:
            raise ValueError("There is no kind of labels to probe for. Give --labels.")
