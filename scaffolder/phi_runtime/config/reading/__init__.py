"""Read and write config files (JSON with comments, YAML) with the position of every value."""
