# The commands of the README. Without make (Windows), run the commands of docs/install.md.
PYTHON ?= python3.11
BUILD := build
LIGHT := $(BUILD)/venv
DEMO  := $(BUILD)/demo
TEST  := $(BUILD)/test-venv
DOCS  := $(BUILD)/docs-venv
ASK   ?= I cannot believe they threw me a party!

.PHONY: demo test docs clean

demo test: export PYTHONDONTWRITEBYTECODE := # what many processes import is compiled once, whatever the shell says

# From a new project to an answer of its int4 model. The second call finds everything cached.
demo: $(LIGHT)/bin/phi-scaffold
	test -d $(DEMO) || $(LIGHT)/bin/phi-scaffold new $(DEMO) --yes --no-git
	PYTHON="$(CURDIR)/$(LIGHT)/bin/python" bash $(DEMO)/setup/setup.sh
	$(LIGHT)/bin/phi-scaffold run --project $(DEMO)
	$(DEMO)/.venv/bin/python $(DEMO)/inferences/chat_onnx.py --prompt "$(ASK)"

$(LIGHT)/bin/phi-scaffold: pyproject.toml
	$(PYTHON) -m venv $(LIGHT)
	$(LIGHT)/bin/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

# The fast tests, all the cases that they sample, compatibility with Microsoft Olive, Azure's client against a stand-in, a Slurm cluster, then a real model end to end from the built wheel.
test: $(TEST)/installed.txt
	$(TEST)/bin/python -m slipcover --source scaffolder --fail-under 90 --out $(BUILD)/coverage.txt -m pytest -n 2 --dist worksteal
	$(TEST)/bin/python -m pytest -n 3 --dist worksteal -m slow
	$(TEST)/bin/python -m pytest -n 4 --dist loadfile -m "olive or azure or slurm" tests/azure tests/slurm tests/olive
	$(TEST)/bin/python -m pytest -m e2e tests/e2e

# The environment of a generated project at its pins, and the test tools.
$(TEST)/installed.txt: pyproject.toml $(wildcard template/setup/*)
	$(PYTHON) tests/make_environment.py $(TEST)

# The documentation as a site; fails for a link to a page or heading that does not exist.
docs: $(DOCS)/bin/zensical
	$(DOCS)/bin/zensical build --strict

$(DOCS)/bin/zensical: pyproject.toml
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(DOCS)/bin/python -m pip install --quiet --group docs
	touch $@

clean:
	rm -rf $(BUILD)
