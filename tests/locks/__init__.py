"""The locks: closed sets that the oldest pip installs and that work."""
