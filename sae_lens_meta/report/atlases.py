"""Atlases that lie beside a report, which the latents of their SAEs link into."""

import re
from pathlib import Path
from urllib.parse import quote

from sae_lens_meta.comparison.result import Comparison

# by which a page says whose atlas it is, near its beginning
_OF = re.compile(r'<meta name="weights-sha256" content="([0-9a-f]{64})">')
_HEAD = 8192


def atlases_beside(comparison: Comparison, folder: Path) -> dict[str, str]:
    """
    The atlases in `folder` of SAEs that were compared, as links from a page there.

    An atlas is told by the weights that it says it is of: a page of other weights is none, whatever it is
    called, and its latents would be others.

    Args:
        comparison: of the SAEs.
        folder: of the report.

    Returns:
        The links, by the names of the SAEs.
    """
    names = {sae.weights_sha256: sae.name for sae in comparison.saes}
    found = {}
    for path in sorted(folder.glob("*.html")):
        with path.open(encoding="utf-8", errors="replace") as page:
            said = _OF.search(page.read(_HEAD))
        if said and said[1] in names:
            found.setdefault(names[said[1]], quote(path.name))
    return found
