"""The list of releases, their files, and their names in SAELens."""

# before any file of this room, whose releases are registered as soon as it is there
import sae_lens  # noqa: F401
