"""Measures of a trained SAE. Each stands alone and takes any SAELens SAE."""
