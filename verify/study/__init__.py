"""Jobs on many inputs: certified accuracy of data sets, and the largest radius that is safe."""
