"""What a command says beside its figures."""

from rich.console import Console


def say(notes: list[str], warnings: list[str], console: Console) -> None:
    """Prints notes and warnings, a line each."""
    for line in [*notes, *(f"Warning: {warning}" for warning in warnings)]:
        console.print(line, style="yellow", markup=False)
