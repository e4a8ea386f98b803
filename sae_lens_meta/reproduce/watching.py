"""What runs where in a run that goes on, as a table; from any shell that sees its folder."""

import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from sae_lens_meta.underway import FAILED, RUNNING, Standing, standings

SILENT_AFTER_SECONDS = 120  # of one that runs; then it may have been killed


@dataclass
class WatchConfig:
    """
    Args:
        every (float): Seconds between two looks.
        once (bool): Look once, print what there is and end.
    """

    every: float = 2.0
    once: bool = False


def watch(folder: Path, cfg: WatchConfig, console: Console) -> None:
    """
    Shows the pieces of the run in `folder` until nothing runs any more.

    Raises:
        FileNotFoundError: if no piece of a run has begun there.
        ValueError: if `every` is not above 0.
    """
    if cfg.every <= 0:
        raise ValueError(f"--every takes seconds above 0; got {cfg.every:g}.")
    if not standings(folder / "pieces"):
        raise FileNotFoundError(
            f"No piece of a run has begun in {folder}. Give the --output of `reproduce` or `sweep`."
        )
    if cfg.once:
        console.print(table(standings(folder / "pieces"), time.time()))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            found = standings(folder / "pieces")
            live.update(table(found, time.time()), refresh=True)
            if all(standing.state != RUNNING for standing in found):
                return
            time.sleep(cfg.every)


def table(found: list[Standing], now: float) -> Table:
    """The pieces, at the time `now` in seconds since the epoch."""
    table = Table(title=_title(found))
    for heading in ("piece", "where", "state"):
        table.add_column(heading)
    for heading in ("done", "a second", "left"):
        table.add_column(heading, justify="right")
    for standing in found:
        share = f"{standing.done:,}"
        if standing.total:
            share = f"{standing.done / standing.total:.0%} of {standing.total:,} {standing.unit}"
        left = standing.seconds_left
        table.add_row(
            standing.piece,
            f"{standing.host}, {standing.pid}",
            _state(standing, now),
            share if standing.unit else "",
            f"{standing.rate:,.0f}" if standing.rate else "",
            "" if left is None else _duration(left),
        )
    return table


def _title(found: list[Standing]) -> str:
    counts = {state: 0 for state in (RUNNING, "done", FAILED)}
    for standing in found:
        counts[standing.state] += 1
    return ", ".join(f"{n} {state}" for state, n in counts.items())


def _state(standing: Standing, now: float) -> str:
    silent = now - standing.updated
    if standing.state == FAILED:
        return f"[red]{FAILED}[/red]: {escape(standing.error)}"
    if standing.state == RUNNING and silent > SILENT_AFTER_SECONDS:
        return f"[yellow]silent for {_duration(silent)}[/yellow]"
    return standing.state


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
