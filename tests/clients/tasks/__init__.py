"""Coding agents and chat front ends with a task each: what they are given, what the model says, what they are to have done."""
