"""The edges: the client, Redis, Zion and the provider. Each third-party library has its one home here."""
