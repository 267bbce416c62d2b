"""The stages of the journey. They never import each other: they meet in `journey.py` and exchange only records."""
