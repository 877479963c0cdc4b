"""The tasks that a model can be trained for. Imports nothing, so that `new` starts fast."""

from typing import Literal, get_args

Task = Literal["classification", "chat", "question-answering", "summarization", "extraction", "generation"]

TASKS: tuple[Task, ...] = get_args(Task)
