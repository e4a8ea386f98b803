"""What the latents of an SAE are made of: a meta SAE over its decoder rows, opened."""
