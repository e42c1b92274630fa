"""The SQLite index of a cache: connections, tables, transactions. No other file is touched."""
