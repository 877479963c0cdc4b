"""The report of a run, as a pure function of the files in gen-model/: nothing is measured here, and no ML library is imported."""
