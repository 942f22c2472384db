"""torch.nn modules: what is let in, and the way from there to the network."""
