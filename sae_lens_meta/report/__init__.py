"""One HTML file that shows a comparison."""

from sae_lens_meta.report.report import write_report

__all__ = ["write_report"]
