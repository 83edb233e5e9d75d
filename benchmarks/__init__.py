"""What ``make bench`` prints: figures of one run on one machine, ratios where they matter."""
