"""What the measurements share: networks, data, timers, rows and reports."""
