"""``python -m edge_sdk`` is the same as ``edge-sdk``."""

import sys

from edge_sdk.main import main

sys.exit(main())
