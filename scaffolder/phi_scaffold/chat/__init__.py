"""The chat on a terminal: input, commands and the display of answers."""
