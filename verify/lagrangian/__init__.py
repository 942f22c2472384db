"""The Lagrangian and its dual function: one sweep over the network, and terms that each own one kind of multiplier."""
