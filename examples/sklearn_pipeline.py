"""A pipeline of scikit-learn, its scaler included, by way of skl2onnx: are all states with a low load called normal?

pip install skl2onnx
python examples/sklearn_pipeline.py
"""

from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import verify


def main() -> verify.Result:
    """Trains, exports, proves."""
    generator = np.random.default_rng(0)
    x = generator.uniform([0, 20], [100, 90], (2000, 2)).astype(np.float32)  # load in percent, temperature
    overloaded = (x[:, 0] + 0.5 * x[:, 1] > 100).astype(int)
    pipeline = make_pipeline(StandardScaler(), MLPClassifier((12, 12), random_state=0, tol=1e-3))
    pipeline.fit(x, overloaded)
    Path("pipeline.onnx").write_bytes(to_onnx(pipeline, x[:1], target_opset=17).SerializeToString())
    low_load = ([0, 20], [30, 90])
    normal = verify.Always(verify.y[0] > verify.y[1], low_load)  # the class's probability
    print(normal)
    return verify.verify("pipeline.onnx", normal, output="output_probability", timeout=60)


if __name__ == "__main__":
    result = main()
    print(result.verdict, result.reason)
