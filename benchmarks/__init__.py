"""What this package costs, measured side by side with the field: ``python -m benchmarks all``."""
