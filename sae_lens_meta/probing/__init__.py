"""Known labels of tokens, held against the activations, the latents and what latents take over."""
