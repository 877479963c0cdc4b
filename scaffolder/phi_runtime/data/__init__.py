"""From a data file to the exact tokens that are trained on. `rows`, `columns`, `template` and `split` import no ML library."""
