"""What a search proves: told as it goes (`tracer.py`), written block by block, checked, thinned out (docs/certificate-format.md)."""
