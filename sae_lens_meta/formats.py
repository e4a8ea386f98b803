"""Numbers of the formats of our files, so that a later one is refused by an earlier version."""


def check_format(what: object, found: object, known: int, otherwise: str = "") -> None:
    """
    Args:
        what: the file, as an error calls it.
        found: number of its format.
        known: that this version reads.
        otherwise: what else than an update helps, such as "run decompose again".

    Raises:
        ValueError: if the two differ.
    """
    if found != known:
        hint = f", or {otherwise}" if otherwise else ""
        raise ValueError(
            f"{what} is of format {found}, and this version of sae-lens-meta reads {known}. "
            f"Update sae-lens-meta{hint}."
        )
