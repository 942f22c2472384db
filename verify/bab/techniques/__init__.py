"""What a search does beside splitting to get better bounds: one file each."""
