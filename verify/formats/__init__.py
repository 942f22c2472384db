"""Readers and writers of files; nothing here imports torch."""
