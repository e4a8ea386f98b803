"""A release from its recipe: every stage from the language model to the Hub."""
