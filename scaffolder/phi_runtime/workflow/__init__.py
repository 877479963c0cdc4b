"""The config: read, located, checked. No ML library is imported in this room."""
