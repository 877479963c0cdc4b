"""Azure ML: systems of a config, job YAML, and the engine that submits it through Azure's client."""
