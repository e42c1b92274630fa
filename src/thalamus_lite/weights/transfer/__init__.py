"""A file's bytes on their way: ranges, workers, retries, verification, progress."""
