"""`python -m onwards_trio`, the same as the command `onwards`."""

import sys

from onwards_trio._cli import main

sys.exit(main())
