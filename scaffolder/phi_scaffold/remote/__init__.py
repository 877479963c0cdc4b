"""`run` on other machines: from the flags of a command line to a job and its outputs."""
