from __future__ import annotations

from thalamus_lite.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
