"""Export a model with the builder of onnxruntime-genai alone: `python build_model.py SOURCE OUT PRECISION OPTIONS`."""

import json
import sys

from onnxruntime_genai.models import builder

if __name__ == "__main__":
    source, out, precision, options = sys.argv[1:]
    place = (None, source, out, precision, "cpu", f"{out}-cache")
    builder.create_model(*place, **builder.parse_extra_options(*place, json.loads(options)))
