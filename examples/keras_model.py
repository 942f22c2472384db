"""A model of Keras 3, by its own export to ONNX, on the backend that is at hand (here PyTorch).

pip install keras onnxscript
python examples/keras_model.py
"""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np

import verify


def main() -> verify.Result:
    """Exports an untrained network of images, and asks whether small changes change its label."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1), batch_size=1),
            layers.Conv2D(4, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    x = np.full((1, 8, 8, 1), 0.5, dtype=np.float32)
    label = int(np.argmax(model.predict(x, verbose=0)))
    model.export("keras.onnx", format="onnx", verbose=False)
    return verify.verify("keras.onnx", verify.LinfBall(x, epsilon=0.01, label=label), timeout=60)


if __name__ == "__main__":
    result = main()
    print(result.verdict, result.reason)
