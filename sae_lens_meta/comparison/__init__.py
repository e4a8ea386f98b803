"""Groups of SAEs held against each other on the same tokens."""
