"""SAEs trained where the true features are known, and held against them."""
