"""An OpenAI-compatible server over the models of a project.

ONNX Runtime GenAI holds Python's global lock while it computes: a prompt of 1500 tokens blocks all other threads for seconds
(seen in 0.18). So models and HTTP have one process each. `worker` loads the models and generates the active answers in turn
(`scheduler`); `engine` starts it and exchanges messages with it (`wire`). `app` has the routes, `protocol` the request bodies
with their `messages` and `tools`, `fields` what other servers' requests have, `answering` and `bodies` the responses, `guard` the
authentication and size limits; `errors` and `metrics` are what they are called. `tool_format` is the form in which a template
writes tool calls, and `tool_calls` finds them in answers. `server` starts and stops everything.
"""
