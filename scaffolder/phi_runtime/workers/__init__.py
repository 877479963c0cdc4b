"""Child processes: one protocol for starting them, exchanging JSON lines with them, and ending them.

`process` is the parent's side, `child` the child's side, and `failures` turns exceptions and exit codes into errors for
the user. A message is a JSON object on one line. These keys have one meaning everywhere:

- `event`: an Event, for the listener of the run
- `result`: what the request came to
- `error`: a PhiError (`core.errors.to_wire`) that ended it
- `output`: a line that the child printed (sent by the parent's own reader thread)

A child ends when its stdin closes, which also happens when the parent is killed.
"""
