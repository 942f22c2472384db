"""What measures `verify`, and what shows it at work."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before ONNX Runtime is imported anywhere below
