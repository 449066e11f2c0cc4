"""Conversations as other libraries take them: a module for each, which is imported by its own name."""
