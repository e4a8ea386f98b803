"""One figure a file, and the registry of figures."""
