"""Other tools that do what the steps of compression do, to compare with and to fall back on."""
