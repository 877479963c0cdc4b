"""Create projects: answers, questions, and the files of the template."""
