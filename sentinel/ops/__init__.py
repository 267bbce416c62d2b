"""What everything stands on: settings, records, errors, metrics, logs, and the token ranks."""
