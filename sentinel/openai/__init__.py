"""What OpenAI's API means, read from bytes and written as bytes. Pure: no await, no I/O."""
