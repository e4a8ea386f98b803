"""The joint objective and its fast parts: what happens in a training step."""

# before any file of this room, whose classes are registered as soon as it is there
import sae_lens  # noqa: F401
