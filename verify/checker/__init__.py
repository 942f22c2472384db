"""The certificate checker: its own readers, its own arithmetic, nothing of the search (`verify check`)."""
