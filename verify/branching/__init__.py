"""Where to split: activations by filtered smart branching, inputs by the dual solution."""
