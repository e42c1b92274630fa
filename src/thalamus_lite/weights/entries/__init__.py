"""The folders of a cache: how an entry is made, published, recovered and evicted."""
