"""The same run on several processes, through accelerate."""
