"""Lower bounds on margins and bounds of variables."""
