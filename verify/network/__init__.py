"""The network as a graph of affine maps and activations."""
