"""From a folder with a trained SAE to a release on the Hugging Face Hub."""
