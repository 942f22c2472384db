"""Certificates of `unsat` and `sat`: what the search tells, written as docs/certificate-format.md says."""
