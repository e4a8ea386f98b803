"""Settings of a recipe tried against each other: trained, measured, tabled, and one chosen by a rule."""
