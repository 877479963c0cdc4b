"""An OpenAI-compatible server over the models of a project.

ONNX Runtime GenAI holds Python's global lock while it computes: a prompt of 1500 tokens silences all other threads for its seconds
(seen in 0.18). So models and HTTP live in two processes. `worker` loads the models and takes the active answers in turn
(`scheduler`); `engine` starts it and speaks with it, a line of JSON each (`wire`). `app` is the HTTP side, with `protocol` (what
may be asked), `answering` and `bodies` (what is answered), `guard` (who may ask, and how much), `errors` and `metrics`. `server`
puts them together.
"""
