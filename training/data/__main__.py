"""`python -m training.data check`: check a dataset on disk."""

from __future__ import annotations

import sys

from training.data.check_dataset import main

if __name__ == "__main__":
    sys.exit(main())
