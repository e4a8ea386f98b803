"""What a comparison is of, checked before any work, and the passes that count for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from sae_lens import SAE

from sae_lens_meta.activations.comparable import check_comparable
from sae_lens_meta.activations.measured_on import NEEDED, SourceConfig
from sae_lens_meta.activations.text import text_identity
from sae_lens_meta.comparison.config import CompareConfig
from sae_lens_meta.comparison.counting import Job, plan_passes
from sae_lens_meta.comparison.independence import check_members
from sae_lens_meta.comparison.members import Entry, named_entries, variants
from sae_lens_meta.comparison.progress import fingerprint
from sae_lens_meta.comparison.result import FORMAT
from sae_lens_meta.saved import SavedSAE


@dataclass
class Plan:
    """
    A comparison before its passes.

    Attributes:
        cfg, source_cfg: what is asked for.
        entries: the SAEs; by their ids also
        saved: what they record,
        saes: themselves, and
        variant: which SAEs are of one kind, by the name of that.
        base: the SAE of the baseline that the others are matched to.
        split, split_null: pairs of SAEs in whose counts splits are looked for; the second, of two
            of the baseline, is what another seed alone comes to, None where there is no second.
        other_group: whose SAE `split` holds against the baseline's.
        passes: jobs that count at the same time.
        fingerprint: of everything that counts depend on.
    """

    cfg: CompareConfig
    source_cfg: SourceConfig
    entries: list[Entry]
    saved: dict[str, SavedSAE]
    saes: dict[str, SAE[Any]]
    variant: dict[str, str]
    base: str
    split: Job
    split_null: Job | None
    other_group: str
    passes: list[list[Job]]
    fingerprint: str

    @property
    def progress(self) -> Path:
        """Folder that keeps what is done until the end."""
        return self.cfg.output / "progress"

    @property
    def path(self) -> Path:
        """Of its comparison.json."""
        return self.cfg.output / "comparison.json"


def planned(cfg: CompareConfig, source_cfg: SourceConfig) -> Plan:
    """
    The plan of a comparison.

    Raises:
        ValueError, OSError: as `compare`, of what can be said before the text is read.
    """
    entries = _checked_entries(cfg, source_cfg)
    saved = {entry.id: entry.saved for entry in entries}
    variant = variants(entries, saved, {cfg.baseline, cfg.control})
    saes = {id_: one.load(source_cfg.device) for id_, one in saved.items()}
    fixed = (cfg.baseline, cfg.control)
    base, *more = (e.id for e in entries if e.group == cfg.baseline)
    other = next(e for e in entries if e.group not in fixed)
    split = Job(base, other.id)
    # what a second SAE of the baseline seems to split, another seed alone does
    split_null = Job(base, more[0]) if more else None
    between = [split, split_null] if cfg.n_candidates > 0 else []
    jobs = [job for job in between if job] + list(map(Job, saes))
    return Plan(
        cfg,
        source_cfg,
        entries,
        saved,
        saes,
        variant,
        base,
        split,
        split_null,
        other.group,
        plan_passes(jobs, saes, cfg.max_memory_gb),
        _fingerprint(cfg, source_cfg, entries),
    )


def _checked_entries(cfg: CompareConfig, source_cfg: SourceConfig) -> list[Entry]:
    """The SAEs to compare, by what they record."""
    entries = named_entries(cfg.groups, cfg.baseline)
    saved = {entry.id: entry.saved for entry in entries}
    for one in saved.values():
        one.check_is_sae()
    check_members(entries, saved)
    given = {name for name in NEEDED if getattr(source_cfg, name) is not None}
    check_comparable({entry.name: entry.saved for entry in entries}, given)
    return entries


def _fingerprint(
    cfg: CompareConfig, source_cfg: SourceConfig, entries: list[Entry]
) -> str:
    # what is counted does not depend on these
    others = ("output", "overwrite", "min_fired")
    counted = {k: v for k, v in plain(cfg).items() if k not in others}
    paths = [entry.path for entry in entries]
    of = [FORMAT, counted, plain(source_cfg)]
    return fingerprint(of, paths, text_identity(source_cfg.dataset).sha256)


def plain(cfg: Any) -> dict[str, Any]:
    """A config as JSON has it."""
    return TypeAdapter(type(cfg)).dump_python(cfg, mode="json")
