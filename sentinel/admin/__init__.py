"""What is not the journey: health, metrics and usage. No limits, no billing."""
