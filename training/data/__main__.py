"""Command: `python -m training.data check`, as `training.data.check_dataset`."""

from __future__ import annotations

import sys

from training.data.check_dataset import main

if __name__ == "__main__":
    sys.exit(main())
