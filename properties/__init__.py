"""Problems of the project's own: networks it trained, properties it wrote, verdicts an exact solver found."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before ONNX Runtime is imported anywhere below
