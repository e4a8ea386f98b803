"""An SAE as other tools read it."""
