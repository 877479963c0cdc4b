"""Child processes: start one, exchange JSON lines with it, end it with its parent."""
