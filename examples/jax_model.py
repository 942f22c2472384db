"""A function of JAX, by way of jax2onnx.

pip install jax2onnx
python examples/jax_model.py
"""

import jax
import jax.numpy as jnp
import onnx
from jax2onnx import to_onnx

import verify


def main() -> verify.Result:
    """Exports two layers with random weights, and bounds what comes out."""
    keys = jax.random.split(jax.random.key(0), 2)
    first, last = jax.random.normal(keys[0], (4, 16)), jax.random.normal(keys[1], (16, 1))

    def network(x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ first) @ last

    onnx.save(to_onnx(network, [(1, 4)]), "jax.onnx")
    box = ([-0.1] * 4, [0.1] * 4)
    return verify.verify("jax.onnx", verify.OutputRange(box, [-3.0], [3.0]), timeout=60)


if __name__ == "__main__":
    result = main()
    print(result.verdict, result.reason)
