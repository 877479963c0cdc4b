"""Load a config, plan its stages and run them."""
