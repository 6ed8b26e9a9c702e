"""`python -m cpcsam`: the same as the console command `cpcsam`."""

from __future__ import annotations

import sys

from cpcsam.cli.main import main

sys.exit(main())
