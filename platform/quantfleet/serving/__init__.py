"""Answering with stored models, in process."""
