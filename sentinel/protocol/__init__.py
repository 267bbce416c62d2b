"""Bytes and numbers in, values out: what goes over the wire, with no await and no I/O."""
