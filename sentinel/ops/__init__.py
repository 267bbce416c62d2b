"""What is not the journey: health and metrics. No limits, no billing."""
