"""`python -m workbench`; files of the folder it is called from are never imported, with or without `-P`."""

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if not sys.flags.safe_path and os.path.realpath(sys.path[0]) != os.path.realpath(ROOT):
    del sys.path[0]

from workbench.cli import main  # noqa: E402 - not before the path is safe

sys.exit(main())
