"""Sample text for comparing models without validation rows: plain English and a little code."""

TEXT = """\
The old mill stood at the bend of the river, where the water ran slow and brown in summer. For many years nobody had \
lived there. The roof had lost its tiles one after another, and swallows built their nests under the beams. When the \
new owner came in spring, she first opened all the windows. Then she swept the floors, counted the broken panes, and \
wrote a list of everything that had to be done before winter.

Question: Why does bread rise in the oven? Answer: Yeast turns sugar into carbon dioxide. The gas is caught in the \
dough, and because it grows when it gets warm, the loaf becomes larger until its crust is firm. Salt slows the yeast \
down, and so does cold.

To set up the project, make a virtual environment and install the packages that are listed in the requirements file. \
If the installation fails, check the version of Python first. Most problems come from an interpreter that is too old.

```python
def mean(values):
    total = 0.0
    for value in values:
        total += value
    return total / len(values)


class Counter:
    def __init__(self, start=0):
        self.count = start

    def add(self, step=1):
        self.count += step
        return self.count
```

Dear Ms Weber, thank you for your letter of the third of May. We are sorry to hear that the parcel arrived late and \
that one of the cups was broken. A new one left our house today and should reach you on Friday. You need not send the \
broken cup back.
"""
