"""DSR and 3DSR: one discrete auto-encoder and one detector on its codes."""
