"""The provider's side of a request."""
