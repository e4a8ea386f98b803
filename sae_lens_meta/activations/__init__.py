"""What an SAE reads: a language model, a text, and the activations of a hook."""
