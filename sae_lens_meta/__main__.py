"""`python -m sae_lens_meta` is the command line."""

from sae_lens_meta.cli import main

main()
