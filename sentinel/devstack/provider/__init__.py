"""The provider's simulator by families of routes; `provider_simulator` puts them together and runs them.

Nothing here fails but as OpenAI would: by `checks.RefusedError`, which holds the answer.
"""
