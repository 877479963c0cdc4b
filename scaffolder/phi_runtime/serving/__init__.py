"""An OpenAI-compatible server over the models of a project.

ONNX Runtime GenAI holds Python's global lock while it computes: a prompt of 1500 tokens blocks all other threads for seconds
(seen in 0.18). So models and HTTP have one process each. `worker` loads the models and generates the active answers in turn
(`scheduler`); `engine` starts it and exchanges messages with it (`wire`). `app` has the routes, `protocol` the request bodies,
`answering` and `bodies` the responses, `guard` the authentication and size limits; `errors` and `metrics` are what they are
called. `server` starts and stops everything.
"""
