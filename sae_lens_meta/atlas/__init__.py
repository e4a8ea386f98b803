"""A page on which one walks through an SAE: its latents, and what they are made of."""
