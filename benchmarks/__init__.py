"""What measures `verify`, and what shows it at work."""
