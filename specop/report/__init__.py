"""The command line and its page."""
