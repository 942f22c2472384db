"""One search on many workers: processes of this machine, or of a cluster."""
