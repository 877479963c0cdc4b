"""Search over whole runs: sweep (training settings) and optimize (export settings)."""
